import io.debezium.embedded.Connect;
import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.DebeziumEngine.RecordCommitter;
import java.io.PrintWriter;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.connect.source.SourceRecord;

/**
 * Debezium's embedded engine with the Outbox Event Router, over a slot of ours: counts the events
 * that come out of it, sends none, and says what that cost, as the other clients do.
 *
 * <p>Arguments: how many events, a file for each event's id and the microsecond it came (or -),
 * then the engine's properties, each as name=value.
 */
final class Count {
    private static final String ID = "id";

    public static void main(String[] arguments) throws Exception {
        long awaited = Long.parseLong(arguments[0]);
        boolean clocked = !arguments[1].equals("-");
        Properties properties = new Properties();
        for (String property : List.of(arguments).subList(2, arguments.length)) {
            String[] nameAndValue = property.split("=", 2);
            properties.setProperty(nameAndValue[0], nameAndValue[1]);
        }
        StringBuilder seen = new StringBuilder();
        CountDownLatch reached = new CountDownLatch(1);
        var consumer = new DebeziumEngine.ChangeConsumer<ChangeEvent<SourceRecord, SourceRecord>>() {
            private long events;
            private long began;
            private long processor;

            @Override
            public void handleBatch(
                    List<ChangeEvent<SourceRecord, SourceRecord>> batch,
                    RecordCommitter<ChangeEvent<SourceRecord, SourceRecord>> committer)
                    throws InterruptedException {
                if (began == 0) {
                    began = System.nanoTime();
                    processor = processorTime();
                }
                for (var event : batch) {
                    events++;
                    if (clocked) {
                        long now = ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now());
                        var id = event.value().headers().lastWithName(ID).value();
                        seen.append(id).append(' ').append(now).append('\n');
                    }
                    committer.markProcessed(event);
                }
                committer.markBatchFinished();
                if (events >= awaited && reached.getCount() > 0) {
                    long wall = (System.nanoTime() - began) / 1000;
                    long used = (processorTime() - processor) / 1000;
                    System.out.printf("cost %d %d %d 0%n", wall, used, peak());
                    reached.countDown();
                }
            }
        };
        var engine = DebeziumEngine.create(Connect.class)
                .using(properties)
                .using((success, message, error) -> {
                    if (!success) {
                        System.err.println(message);
                        if (error != null) {
                            error.printStackTrace();
                        }
                        System.exit(1);
                    }
                })
                .notifying(consumer)
                .build();
        Thread running = new Thread(engine);
        running.start();
        reached.await();
        engine.close();
        running.join();
        if (clocked) {
            try (PrintWriter file = new PrintWriter(arguments[1])) {
                file.print(seen);
            }
        }
        System.exit(0);
    }

    private static long processorTime() {
        var system = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        return system.getProcessCpuTime();
    }

    /** The most memory that was resident, in bytes. */
    private static long peak() {
        try (var lines = Files.lines(Path.of("/proc/self/status"))) {
            String line = lines.filter(l -> l.startsWith("VmHWM:")).findFirst().orElseThrow();
            return Long.parseLong(line.replaceAll("[^0-9]", "")) * 1024;
        } catch (java.io.IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
    }
}
