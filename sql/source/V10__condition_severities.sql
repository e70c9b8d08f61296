-- Two more severities: changes are being lost, or will not flow from the next session on.
alter table relay.condition drop constraint condition_severity_check;
alter table relay.condition add constraint condition_severity_check
  check (severity in ('losing', 'blocked', 'at-risk', 'partial', 'notice'));
comment on column relay.condition.severity is
  'losing: changes are committed that will never be sent; blocked: no event flows; at-risk: events flow until the next session; partial: some events do not flow; notice: all flow, an operator should know.';
