// The conformance client in Java: grpc-java and generated stubs. ../README.md tells what the cases mean.
//
//     java -cp ... Client ADDRESS CASES.json

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonPrimitive;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.protobuf.MessageOrBuilder;
import com.google.protobuf.util.JsonFormat;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.ServiceDescriptor;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.health.v1.HealthGrpc;
import io.grpc.protobuf.StatusProto;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.math.BigInteger;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import varve.v1.AdminGrpc;
import varve.v1.KVGrpc;
import varve.v1.ReplicationGrpc;
import varve.v1.SnapshotsGrpc;
import varve.v1.WatchGrpc;

final class Client {
  static final class Mismatch extends Exception {
    Mismatch(String words) {
      super(words);
    }
  }

  // ---- the small language of the cases ----

  /** A request with "$name", "$name+1" and "$~name" replaced. */
  static JsonElement fill(JsonElement value, Map<String, JsonElement> names) {
    if (value.isJsonObject()) {
      JsonObject filled = new JsonObject();
      value.getAsJsonObject().asMap().forEach((key, item) -> filled.add(key, fill(item, names)));
      return filled;
    }
    if (value.isJsonArray()) {
      JsonArray filled = new JsonArray();
      value.getAsJsonArray().forEach(item -> filled.add(fill(item, names)));
      return filled;
    }
    if (!isSpecial(value)) return value;
    String name = value.getAsString().substring(1);
    if (name.startsWith("~")) {
      byte[] token = Base64.getDecoder().decode(names.get(name.substring(1)).getAsString());
      token[token.length - 1] ^= 1;
      return new JsonPrimitive(Base64.getEncoder().encodeToString(token));
    }
    String[] sum = name.split("\\+");
    if (sum.length == 1) return names.get(name);
    return new JsonPrimitive(names.get(sum[0]).getAsBigInteger().add(new BigInteger(sum[1])).toString());
  }

  static boolean isSpecial(JsonElement value) {
    return value.isJsonPrimitive() && value.getAsJsonPrimitive().isString() && value.getAsString().startsWith("$");
  }

  /** Whether an answer is as wanted; binds the names that it meets first. */
  static boolean match(JsonElement want, JsonElement got, Map<String, JsonElement> names) {
    if (isSpecial(want)) {
      String name = want.getAsString().substring(1);
      if (name.equals("_")) return !got.isJsonNull();
      if (!name.matches("\\w+") || names.containsKey(name)) return got.equals(fill(want, names));
      names.put(name, got);
      return !got.isJsonNull();
    }
    if (want.isJsonObject() && got.isJsonObject()) {
      Map<String, JsonElement> wanted = want.getAsJsonObject().asMap();
      Map<String, JsonElement> found = got.getAsJsonObject().asMap();
      for (Map.Entry<String, JsonElement> field : wanted.entrySet()) {
        JsonElement other = found.getOrDefault(field.getKey(), JsonNull.INSTANCE);
        if (!field.getKey().equals("...") && !match(field.getValue(), other, names)) return false;
      }
      return wanted.containsKey("...") || wanted.keySet().containsAll(found.keySet());
    }
    if (want.isJsonArray() && got.isJsonArray()) {
      List<JsonElement> wanted = want.getAsJsonArray().asList();
      List<JsonElement> found = got.getAsJsonArray().asList();
      if (!wanted.isEmpty() && wanted.get(0).equals(new JsonPrimitive("..."))) {
        return wanted.stream().skip(1).allMatch(item -> find(item, found, names) >= 0);
      }
      for (int i = 0; i < wanted.size() && wanted.size() == found.size(); i++) {
        if (!match(wanted.get(i), found.get(i), names)) return false;
      }
      return wanted.size() == found.size();
    }
    return want.equals(got);
  }

  /** The index of the first that is as wanted, or -1. */
  static int find(JsonElement want, List<JsonElement> list, Map<String, JsonElement> names) {
    for (int i = 0; i < list.size(); i++) {
      Map<String, JsonElement> trial = new HashMap<>(names);
      if (match(want, list.get(i), trial)) {
        names.putAll(trial);
        return i;
      }
    }
    return -1;
  }

  /** A stream as one message: lists are joined, of anything else the last message's counts. */
  static JsonObject fold(List<JsonElement> messages) {
    JsonObject whole = new JsonObject();
    if (!messages.isEmpty()) {
      whole = messages.get(messages.size() - 1).getAsJsonObject().deepCopy();
    }
    Map<String, JsonArray> lists = new HashMap<>();
    for (JsonElement message : messages) {
      message.getAsJsonObject().asMap().forEach((name, value) -> {
        if (value.isJsonArray()) lists.computeIfAbsent(name, key -> new JsonArray()).addAll(value.getAsJsonArray());
      });
    }
    lists.forEach(whole::add);
    return whole;
  }

  static boolean enough(JsonArray until, List<JsonElement> messages) {
    if (until == null) return false;
    String name = until.get(0).getAsString();
    JsonArray list = name.isEmpty() ? null : fold(messages).getAsJsonArray(name);
    int count = name.isEmpty() ? messages.size() : list == null ? 0 : list.size();
    return count >= until.get(1).getAsInt();
  }

  // ---- messages ----

  static final JsonFormat.Printer PRINTER = JsonFormat.printer().preservingProtoFieldNames().usingTypeRegistry(
      JsonFormat.TypeRegistry.newBuilder().add(ErrorInfo.getDescriptor()).add(RetryInfo.getDescriptor()).build());

  static JsonElement asJson(MessageOrBuilder message) {
    try {
      return JsonParser.parseString(PRINTER.print(message));
    } catch (InvalidProtocolBufferException e) {
      throw new UncheckedIOException(e);
    }
  }

  static Message parse(MethodDescriptor<?, ?> method, JsonElement request) throws IOException {
    Object prototype =
        ((MethodDescriptor.PrototypeMarshaller<?>) method.getRequestMarshaller()).getMessagePrototype();
    Message.Builder message = ((Message) prototype).newBuilderForType();
    JsonFormat.parser().merge(request.toString(), message);
    return message.build();
  }

  /** For messages that no schema vouches for. */
  static final MethodDescriptor.Marshaller<Object> BYTES = new MethodDescriptor.Marshaller<>() {
    @Override
    public InputStream stream(Object bytes) {
      return new ByteArrayInputStream((byte[]) bytes);
    }

    @Override
    public Object parse(InputStream bytes) {
      return com.google.protobuf.Empty.getDefaultInstance();
    }
  };

  // ---- calls ----

  /** A call; what comes of it is queued: answers, and at last how it ended. */
  static final class Stream extends ClientCall.Listener<Object> {
    final MethodDescriptor<Object, Object> method;
    final BlockingQueue<Object> received = new LinkedBlockingQueue<>();
    ClientCall<Object, Object> call;

    Stream(MethodDescriptor<Object, Object> method) {
      this.method = method;
    }

    @Override
    public void onMessage(Object message) {
      received.add(message);
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      received.add(status.isOk() ? status : status.asException(trailers));
    }
  }

  final ManagedChannel channel;
  final Map<String, MethodDescriptor<?, ?>> methods = new HashMap<>();
  final Map<String, Stream> streams = new HashMap<>();

  Client(String address) {
    channel = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create())
                  .disableRetry().maxInboundMessageSize(1 << 30).build();
    for (ServiceDescriptor service : List.of(
             KVGrpc.getServiceDescriptor(), WatchGrpc.getServiceDescriptor(), SnapshotsGrpc.getServiceDescriptor(),
             ReplicationGrpc.getServiceDescriptor(), AdminGrpc.getServiceDescriptor(), HealthGrpc.getServiceDescriptor(),
             io.grpc.reflection.v1.ServerReflectionGrpc.getServiceDescriptor(),
             io.grpc.reflection.v1alpha.ServerReflectionGrpc.getServiceDescriptor())) {
      service.getMethods().forEach(method -> methods.put(method.getFullMethodName(), method));
    }
  }

  /** Begin a call; one that takes a single request has it sent already. */
  @SuppressWarnings("unchecked")
  Stream start(JsonObject step, Map<String, JsonElement> names) throws IOException {
    String rpc = step.get("rpc").getAsString();
    boolean raw = step.has("raw");
    Stream stream = new Stream(
        raw ? MethodDescriptor.newBuilder(BYTES, BYTES).setFullMethodName(rpc)
                  .setType(MethodDescriptor.MethodType.UNARY).build()
            : (MethodDescriptor<Object, Object>) methods.get(rpc));
    int deadlineMs = step.has("deadline_ms") ? step.get("deadline_ms").getAsInt() : 20_000;
    stream.call = channel.newCall(stream.method,
        CallOptions.DEFAULT.withDeadlineAfter(deadlineMs, TimeUnit.MILLISECONDS));
    Metadata metadata = new Metadata();
    if (step.has("metadata")) {
      step.getAsJsonObject("metadata").asMap().forEach(
          (key, value) -> metadata.put(Metadata.Key.of(key, Metadata.ASCII_STRING_MARSHALLER), value.getAsString()));
    }
    stream.call.start(stream, metadata);
    stream.call.request(Integer.MAX_VALUE);
    if (stream.method.getType().clientSendsOneMessage()) {
      JsonElement request = step.has("request") ? step.get("request") : new JsonObject();
      stream.call.sendMessage(raw ? Base64.getDecoder().decode(step.get("raw").getAsString())
                                  : parse(stream.method, fill(request, names)));
      stream.call.halfClose();
    }
    return stream;
  }

  /** Send and receive what a step says; the error that the call ended with, or null. */
  JsonElement receive(JsonObject step, Map<String, JsonElement> names, List<JsonElement> messages)
      throws IOException, InterruptedException, Mismatch {
    Stream stream = step.has("on") ? streams.get(step.get("on").getAsString()) : start(step, names);
    JsonArray until = step.getAsJsonArray("until");
    if (!stream.method.getType().clientSendsOneMessage()) {
      if (step.has("requests")) {
        for (JsonElement request : step.getAsJsonArray("requests")) {
          stream.call.sendMessage(parse(stream.method, fill(request, names)));
        }
      }
      if (until == null) stream.call.halfClose();
    }
    while (!enough(until, messages)) {
      Object next = stream.received.take();
      if (next instanceof Message) {
        messages.add(asJson((Message) next));
      } else if (next instanceof StatusException) {
        return asJson(StatusProto.fromThrowable((StatusException) next));
      } else if (until != null) {
        throw new Mismatch("the stream ended after " + messages);
      } else {
        return JsonNull.INSTANCE;
      }
    }
    if (step.has("keep")) {
      streams.put(step.get("keep").getAsString(), stream);
    } else {
      stream.call.cancel("enough", null);
    }
    return JsonNull.INSTANCE;
  }

  void once(JsonObject step, Map<String, JsonElement> names) throws IOException, InterruptedException, Mismatch {
    List<JsonElement> messages = new ArrayList<>();
    JsonElement error = receive(step, names, messages);
    JsonElement wantedError = step.has("error") ? step.get("error") : JsonNull.INSTANCE;
    if (!match(wantedError, error, names)) throw new Mismatch("wanted error " + wantedError + ", got " + error);
    if (step.has("expect") && !match(step.get("expect"), fold(messages), names)) {
      throw new Mismatch("wanted " + step.get("expect") + ", got " + fold(messages));
    }
    if (!step.has("each")) return;
    for (JsonElement want : step.getAsJsonArray("each")) {
      int i = find(want, messages, names);
      if (i < 0) throw new Mismatch("wanted " + want + ", got " + messages);
      messages.remove(i);
    }
    if (!messages.isEmpty()) throw new Mismatch("not wanted: " + messages);
  }

  /** One step; one with again_ms is tried for that long until it is as wanted. */
  void run(JsonObject step, Map<String, JsonElement> names) throws IOException, InterruptedException, Mismatch {
    long againMs = step.has("again_ms") ? step.get("again_ms").getAsLong() : 0;
    long end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(againMs);
    while (true) {
      Map<String, JsonElement> bound = new HashMap<>(names);
      try {
        once(step, bound);
        names.putAll(bound);
        return;
      } catch (Mismatch e) {
        if (System.nanoTime() > end) throw e;
        Thread.sleep(10);
      }
    }
  }

  public static void main(String[] args) throws IOException, InterruptedException {
    Client client = new Client(args[0]);
    boolean failed = false;
    for (JsonElement test : JsonParser.parseString(Files.readString(Path.of(args[1]))).getAsJsonArray()) {
      String name = test.getAsJsonObject().get("name").getAsString();
      String line = "pass " + name;
      Map<String, JsonElement> names = new HashMap<>();
      int number = 0;
      for (JsonElement step : test.getAsJsonObject().getAsJsonArray("steps")) {
        number++;
        try {
          client.run(step.getAsJsonObject(), names);
        } catch (Mismatch e) {
          JsonElement rpc = step.getAsJsonObject().get(step.getAsJsonObject().has("rpc") ? "rpc" : "on");
          line = "FAIL " + name + ": step " + number + ", " + rpc.getAsString() + ": " + e.getMessage();
          failed = true;
          break;
        }
      }
      System.out.println(line);
    }
    client.channel.shutdownNow().awaitTermination(10, TimeUnit.SECONDS);
    System.exit(failed ? 1 : 0);
  }
}
