//! stub
use pgoutput::Value;
#[derive(Debug, Default)]
pub struct Types;
impl Types {
    pub fn contains(&self, _oid: u32) -> bool {
        true
    }
}
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers;
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct ValueError;
pub fn write_json(
    out: &mut String,
    value: Value<'_>,
    _oid: u32,
    _types: &Types,
    _n: Numbers,
) -> Result<(), ValueError> {
    match value {
        Value::Text(t) if matches!(_oid, 23 | 21) => {
            out.push_str(std::str::from_utf8(t).map_err(|_| ValueError)?)
        }
        Value::Text(t) => {
            out.push_str(
                &serde_json::to_string(std::str::from_utf8(t).map_err(|_| ValueError)?)
                    .map_err(|_| ValueError)?,
            );
        }
        _ => out.push_str("null"),
    }
    Ok(())
}
#[derive(Clone, Debug)]
pub struct Type;
impl Types {
    pub fn insert(&mut self, _oid: u32, _t: Type) {}
}
