// The conformance client in Go: google.golang.org/grpc and messages generated from proto/. ../README.md tells what the
// cases mean.
//
//	client ADDRESS CASES.json
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"os"
	"reflect"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	// What the cases name is found in the registry of what is linked in.
	_ "google.golang.org/genproto/googleapis/rpc/errdetails"
	_ "google.golang.org/grpc/health/grpc_health_v1"
	_ "google.golang.org/grpc/reflection/grpc_reflection_v1"
	_ "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	_ "varve.example/conformance/varvev1"
)

type object = map[string]any

type step struct {
	RPC        string            `json:"rpc"`
	On         string            `json:"on"`
	Request    any               `json:"request"`
	Requests   []any             `json:"requests"`
	Raw        *string           `json:"raw"`
	Metadata   map[string]string `json:"metadata"`
	DeadlineMs int               `json:"deadline_ms"`
	AgainMs    int               `json:"again_ms"`
	Until      []any             `json:"until"`
	Keep       string            `json:"keep"`
	Expect     any               `json:"expect"`
	Each       *[]any            `json:"each"`
	Error      any               `json:"error"`
}

type mismatch string

func (m mismatch) Error() string { return string(m) }

func differs(format string, values ...any) error {
	for i, value := range values {
		text, _ := json.Marshal(value)
		values[i] = string(text)
	}
	return mismatch(fmt.Sprintf(format, values...))
}

// ---- the small language of the cases ----

var isName = regexp.MustCompile(`^\w+$`)

// fill gives a request with "$name", "$name+1" and "$~name" replaced.
func fill(value any, names object) any {
	switch value := value.(type) {
	case object:
		filled := object{}
		for key, item := range value {
			filled[key] = fill(item, names)
		}
		return filled
	case []any:
		filled := make([]any, len(value))
		for i, item := range value {
			filled[i] = fill(item, names)
		}
		return filled
	case string:
		name, special := strings.CutPrefix(value, "$")
		if !special {
			return value
		}
		if name, flip := strings.CutPrefix(name, "~"); flip {
			token, _ := base64.StdEncoding.DecodeString(names[name].(string))
			token[len(token)-1] ^= 1
			return base64.StdEncoding.EncodeToString(token)
		}
		name, more, plus := strings.Cut(name, "+")
		if !plus {
			return names[name]
		}
		sum, _ := new(big.Int).SetString(fmt.Sprint(names[name]), 10)
		add, _ := new(big.Int).SetString(more, 10)
		return sum.Add(sum, add).String()
	}
	return value
}

// match tells whether an answer is as wanted, and binds the names that it meets first.
func match(want, got any, names object) bool {
	switch want := want.(type) {
	case string:
		name, special := strings.CutPrefix(want, "$")
		if name == "_" && special {
			return got != nil
		}
		if _, bound := names[name]; special && !bound && isName.MatchString(name) {
			names[name] = got
			return got != nil
		}
		return got == fill(want, names)
	case object:
		found, ok := got.(object)
		if !ok {
			return false
		}
		for key, item := range want {
			if key != "..." && !match(item, found[key], names) {
				return false
			}
		}
		for key := range found {
			if _, known := want[key]; !known && want["..."] == nil {
				return false
			}
		}
		return true
	case []any:
		found, ok := got.([]any)
		if !ok {
			return false
		}
		if len(want) > 0 && want[0] == "..." {
			for _, item := range want[1:] {
				if find(item, found, names) < 0 {
					return false
				}
			}
			return true
		}
		for i := range want {
			if len(want) != len(found) || !match(want[i], found[i], names) {
				return false
			}
		}
		return len(want) == len(found)
	}
	return reflect.DeepEqual(want, got)
}

// find gives the index of the first that is as wanted, or -1.
func find(want any, list []any, names object) int {
	for i, got := range list {
		trial := copyOf(names)
		if match(want, got, trial) {
			assign(names, trial)
			return i
		}
	}
	return -1
}

func copyOf(names object) object {
	copied := object{}
	assign(copied, names)
	return copied
}

func assign(to, from object) {
	for name, value := range from {
		to[name] = value
	}
}

// fold makes a stream one message: lists are joined, of anything else the last message's counts.
func fold(messages []any) object {
	whole, lists := object{}, map[string][]any{}
	for i, message := range messages {
		for name, value := range message.(object) {
			if list, ok := value.([]any); ok {
				lists[name] = append(lists[name], list...)
			} else if i == len(messages)-1 {
				whole[name] = value
			}
		}
	}
	for name, list := range lists {
		whole[name] = list
	}
	return whole
}

func enough(until []any, messages []any) bool {
	if until == nil {
		return false
	}
	count := int(until[1].(float64))
	if until[0] == "" {
		return len(messages) >= count
	}
	list, _ := fold(messages)[until[0].(string)].([]any)
	return len(list) >= count
}

// ---- calls ----

// bytesCodec is for messages that no schema vouches for.
type bytesCodec struct{}

func (bytesCodec) Name() string                       { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }

var _ encoding.Codec = bytesCodec{}

func asJSON(message proto.Message) (value any) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		log.Fatal(err)
	}
	if err := json.Unmarshal(text, &value); err != nil {
		log.Fatal(err)
	}
	return value
}

func messageOf(kind protoreflect.MessageDescriptor) proto.Message {
	found, err := protoregistry.GlobalTypes.FindMessageByName(kind.FullName())
	if err != nil {
		log.Fatal(err)
	}
	return found.New().Interface()
}

// A stream and what its messages are.
type stream struct {
	grpc.ClientStream
	method protoreflect.MethodDescriptor
	cancel context.CancelFunc
}

func (s *stream) send(request any, names object) error {
	text, _ := json.Marshal(fill(request, names))
	message := messageOf(s.method.Input())
	if err := protojson.Unmarshal(text, message); err != nil {
		log.Fatal(err)
	}
	return s.SendMsg(message)
}

type client struct {
	conn    *grpc.ClientConn
	streams map[string]*stream
}

func (c *client) raw(ctx context.Context, s *step) error {
	request, err := base64.StdEncoding.DecodeString(*s.Raw)
	if err != nil {
		log.Fatal(err)
	}
	var answer []byte
	return c.conn.Invoke(ctx, "/"+s.RPC, &request, &answer, grpc.ForceCodec(bytesCodec{}))
}

// start begins a call; one that takes a single request has it sent already.
func (c *client) start(ctx context.Context, cancel context.CancelFunc, s *step, names object) (*stream, error) {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(
		protoreflect.FullName(strings.ReplaceAll(s.RPC, "/", ".")))
	if err != nil {
		log.Fatal(err)
	}
	method := found.(protoreflect.MethodDescriptor)
	kind := &grpc.StreamDesc{ClientStreams: method.IsStreamingClient(), ServerStreams: method.IsStreamingServer()}
	inner, err := c.conn.NewStream(ctx, kind, "/"+s.RPC)
	if err != nil {
		return nil, err
	}
	opened := &stream{inner, method, cancel}
	if method.IsStreamingClient() {
		return opened, nil
	}
	if s.Request == nil {
		s.Request = object{}
	}
	if err := opened.send(s.Request, names); err != nil && err != io.EOF { // io.EOF: RecvMsg tells what happened
		return nil, err
	}
	return opened, opened.CloseSend()
}

func (c *client) receive(s *step, names object, messages *[]any) error {
	opened := c.streams[s.On]
	if opened == nil {
		deadline := 20 * time.Second
		if s.DeadlineMs > 0 {
			deadline = time.Duration(s.DeadlineMs) * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		if s.Keep == "" {
			defer cancel()
		}
		ctx = metadata.NewOutgoingContext(ctx, metadata.New(s.Metadata))
		if s.Raw != nil {
			return c.raw(ctx, s)
		}
		var err error
		if opened, err = c.start(ctx, cancel, s, names); err != nil {
			return err
		}
	}
	if opened.method.IsStreamingClient() {
		for _, request := range s.Requests {
			if err := opened.send(request, names); err != nil && err != io.EOF {
				return err
			}
		}
		if s.Until == nil {
			_ = opened.CloseSend()
		}
	}
	for !enough(s.Until, *messages) {
		answer := messageOf(opened.method.Output())
		if err := opened.RecvMsg(answer); err == io.EOF && s.Until == nil {
			return nil
		} else if err == io.EOF {
			return differs("the stream ended after %s", *messages)
		} else if err != nil {
			return err
		}
		*messages = append(*messages, asJSON(answer))
		if !opened.method.IsStreamingServer() {
			return nil
		}
	}
	if s.Keep != "" {
		c.streams[s.Keep] = opened
	} else {
		opened.cancel()
	}
	return nil
}

func (c *client) once(s *step, names object) error {
	messages, failure := []any{}, any(nil)
	var wrong mismatch
	if err := c.receive(s, names, &messages); errors.As(err, &wrong) {
		return err
	} else if err != nil {
		failure = asJSON(status.Convert(err).Proto())
	}
	if !match(s.Error, failure, names) {
		return differs("wanted error %s, got %s", s.Error, failure)
	}
	if whole := fold(messages); s.Expect != nil && !match(s.Expect, whole, names) {
		return differs("wanted %s, got %s", s.Expect, whole)
	}
	if s.Each == nil {
		return nil
	}
	for _, want := range *s.Each {
		i := find(want, messages, names)
		if i < 0 {
			return differs("wanted %s, got %s", want, messages)
		}
		messages = append(messages[:i:i], messages[i+1:]...)
	}
	if len(messages) > 0 {
		return differs("not wanted: %s", messages)
	}
	return nil
}

// run takes one step; one with again_ms is tried for that long until it is as wanted.
func (c *client) run(s *step, names object) error {
	end := time.Now().Add(time.Duration(s.AgainMs) * time.Millisecond)
	for {
		bound := copyOf(names)
		err := c.once(s, bound)
		if err == nil {
			assign(names, bound)
			return nil
		}
		if time.Now().After(end) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func main() {
	var cases []struct {
		Name  string `json:"name"`
		Steps []step `json:"steps"`
	}
	text, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	if err := json.Unmarshal(text, &cases); err != nil {
		log.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+os.Args[1],
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	c, failed := &client{conn, map[string]*stream{}}, false
	for _, test := range cases {
		names, line := object{}, "pass "+test.Name
		for i := range test.Steps {
			s := &test.Steps[i]
			if err := c.run(s, names); err != nil {
				line, failed = fmt.Sprintf("FAIL %s: step %d, %s%s: %v", test.Name, i+1, s.RPC, s.On, err), true
				break
			}
		}
		fmt.Println(line)
	}
	if failed {
		os.Exit(1)
	}
}
