// Varve from Java: grpc-java, with stubs that Maven generates from proto/.
//
//     mvn compile exec:java -Dexec.args=HOST:PORT

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.TimeUnit;
import varve.v1.KVGrpc;
import varve.v1.KVGrpc.KVBlockingStub;
import varve.v1.Kv.Condition;
import varve.v1.Kv.DeleteOp;
import varve.v1.Kv.Entry;
import varve.v1.Kv.GetRequest;
import varve.v1.Kv.GetResponse;
import varve.v1.Kv.Op;
import varve.v1.Kv.PutOp;
import varve.v1.Kv.PutRequest;
import varve.v1.Kv.ScanRequest;
import varve.v1.Kv.ScanResponse;
import varve.v1.Kv.WriteRequest;
import varve.v1.WatchGrpc;
import varve.v1.WatchOuterClass.Event;
import varve.v1.WatchOuterClass.WatchRequest;
import varve.v1.WatchOuterClass.WatchResponse;

public final class Example {
  private final ManagedChannel channel;

  Example(ManagedChannel channel) {
    this.channel = channel;
  }

  /** A deadline begins when the stub is made: one for each call. */
  KVBlockingStub kv() {
    return KVGrpc.newBlockingStub(channel).withDeadlineAfter(30, TimeUnit.SECONDS);
  }

  static ByteString bytes(String text) {
    return ByteString.copyFromUtf8(text);
  }

  static Op put(String key, String value) {
    return Op.newBuilder().setPut(PutOp.newBuilder().setKey(bytes(key)).setValue(bytes(value))).build();
  }

  GetResponse get(String key) {
    return kv().get(GetRequest.newBuilder().setKey(bytes(key)).build());
  }

  /** Compare-and-set: writes only if the key still is as it was read. An LSN of 0 means that it is not there. */
  long increment(String key) {
    while (true) {
      GetResponse was = get(key);
      long value = (was.getFound() ? Long.parseLong(was.getValue().toStringUtf8()) : 0) + 1;
      WriteRequest request =
          WriteRequest.newBuilder()
              .addOps(put(key, Long.toString(value)))
              .addConditions(Condition.newBuilder().setKey(bytes(key)).setLsnEquals(was.getLsn()))
              .build();
      if (kv().write(request).getApplied()) return value;
    }
  }

  /** Prints the keys of a range, some at a time, all of one state of the database. */
  void printPages(String prefix, int limit) {
    ByteString token = ByteString.EMPTY;
    do {
      ScanRequest request =
          ScanRequest.newBuilder().setPrefix(bytes(prefix)).setLimit(limit).setPageToken(token).setKeysOnly(true).build();
      List<String> keys = new ArrayList<>();
      Iterator<ScanResponse> messages = kv().scan(request);
      while (messages.hasNext()) {
        ScanResponse message = messages.next();
        for (Entry entry : message.getEntriesList()) keys.add(entry.getKey().toStringUtf8());
        token = message.getPageToken();
      }
      System.out.println("page: " + String.join(" ", keys));
    } while (!token.isEmpty());
  }

  /** Waits for a change in a range, from an LSN on. Messages without events are marks of progress. */
  Event firstChange(String prefix, long fromLsn) throws Exception {
    WatchRequest request = WatchRequest.newBuilder().setPrefix(bytes(prefix)).setFromLsn(fromLsn).build();
    // The call ends with the context that it began in.
    try (Context.CancellableContext context = Context.current().withCancellation()) {
      return context.call(
          () -> {
            Iterator<WatchResponse> messages =
                WatchGrpc.newBlockingStub(channel).withDeadlineAfter(30, TimeUnit.SECONDS).watch(request);
            WatchResponse message = messages.next();
            while (message.getEventsCount() == 0) message = messages.next();
            return message.getEvents(0);
          });
    }
  }

  /** The reason behind a gRPC status: the ErrorInfo in its details. */
  static String errorReason(StatusRuntimeException error) throws InvalidProtocolBufferException {
    com.google.rpc.Status status = StatusProto.fromThrowable(error);
    if (status == null) return "";
    for (Any detail : status.getDetailsList()) {
      if (detail.is(ErrorInfo.class)) return detail.unpack(ErrorInfo.class).getReason();
    }
    return "";
  }

  void run() throws Exception {
    // Acknowledged means: on the disk.
    kv().put(PutRequest.newBuilder().setKey(bytes("greeting")).setValue(bytes("hello")).build());
    System.out.println("greeting = " + get("greeting").getValue().toStringUtf8());
    if (!get("nobody").getFound()) System.out.println("nobody is not there");

    System.out.println("visits = " + increment("visits"));
    System.out.println("visits = " + increment("visits"));
    WriteRequest late =
        WriteRequest.newBuilder()
            .addOps(Op.newBuilder().setDelete(DeleteOp.newBuilder().setKey(bytes("visits"))))
            .addConditions(Condition.newBuilder().setKey(bytes("visits")).setValueEquals(bytes("1")))
            .build();
    if (!kv().write(late).getApplied()) System.out.println("a write on an old state was refused");

    // Several operations as one.
    WriteRequest.Builder fruit = WriteRequest.newBuilder();
    for (String name : List.of("apple", "banana", "cherry", "damson", "elder")) fruit.addOps(put("fruit/" + name, "ripe"));
    kv().write(fruit.build());
    printPages("fruit/", 2);

    // A watch from an LSN misses nothing, whatever is written before it has begun.
    long lsn = kv().put(PutRequest.newBuilder().setKey(bytes("greeting")).setValue(bytes("good-bye")).build()).getLsn();
    Event event = firstChange("greeting", lsn);
    System.out.println("watched: put " + event.getKey().toStringUtf8() + " = " + event.getValue().toStringUtf8());

    try {
      get("");
    } catch (StatusRuntimeException error) {
      System.out.println("error: " + error.getStatus().getCode() + " " + errorReason(error));
    }
  }

  public static void main(String[] args) throws Exception {
    // With TLS and a token: TlsChannelCredentials, and stub.withCallCredentials().
    ManagedChannel channel =
        Grpc.newChannelBuilder(args.length > 0 ? args[0] : "127.0.0.1:7700", InsecureChannelCredentials.create()).build();
    try {
      new Example(channel).run();
    } finally {
      channel.shutdownNow().awaitTermination(10, TimeUnit.SECONDS);
    }
  }
}
