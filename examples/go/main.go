// Varve from Go: google.golang.org/grpc, with stubs generated from proto/ (../README.md says how).
//
//	go run . [HOST:PORT]
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "varve.example/client/varvev1"
)

//go:generate protoc -I../../proto --go_out=. --go-grpc_out=. --go_opt=module=varve.example/client --go-grpc_opt=module=varve.example/client --go_opt=Mvarve/v1/kv.proto=varve.example/client/varvev1 --go-grpc_opt=Mvarve/v1/kv.proto=varve.example/client/varvev1 --go_opt=Mvarve/v1/watch.proto=varve.example/client/varvev1 --go-grpc_opt=Mvarve/v1/watch.proto=varve.example/client/varvev1 varve/v1/kv.proto varve/v1/watch.proto

func put(key, value string) *pb.Op {
	return &pb.Op{Op: &pb.Op_Put{Put: &pb.PutOp{Key: []byte(key), Value: []byte(value)}}}
}

// increment is a compare-and-set: it writes only if the key still is as it was read. An LSN of 0 means that it is not
// there.
func increment(ctx context.Context, kv pb.KVClient, key string) (int, error) {
	for {
		was, err := kv.Get(ctx, &pb.GetRequest{Key: []byte(key)})
		if err != nil {
			return 0, err
		}
		value := 0
		if was.Found {
			if value, err = strconv.Atoi(string(was.Value)); err != nil {
				return 0, err
			}
		}
		value++
		answer, err := kv.Write(ctx, &pb.WriteRequest{
			Ops: []*pb.Op{put(key, strconv.Itoa(value))},
			Conditions: []*pb.Condition{
				{Key: []byte(key), Expected: &pb.Condition_LsnEquals{LsnEquals: was.Lsn}}},
		})
		if err != nil {
			return 0, err
		}
		if answer.Applied {
			return value, nil
		}
	}
}

// page gives some keys of a range, and the token that goes on behind them; empty at the end. All pages are of one state
// of the database.
func page(ctx context.Context, kv pb.KVClient, prefix string, limit uint64, token []byte) ([]string, []byte, error) {
	stream, err := kv.Scan(ctx, &pb.ScanRequest{Prefix: []byte(prefix), Limit: limit, PageToken: token, KeysOnly: true})
	if err != nil {
		return nil, nil, err
	}
	var keys []string
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			return keys, token, nil
		}
		if err != nil {
			return nil, nil, err
		}
		for _, entry := range message.Entries {
			keys = append(keys, string(entry.Key))
		}
		token = message.PageToken
	}
}

// firstChange waits for a change in a range, from an LSN on. Messages without events are marks of progress.
func firstChange(ctx context.Context, watch pb.WatchClient, prefix string, fromLsn uint64) (*pb.Event, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := watch.Watch(ctx, &pb.WatchRequest{Prefix: []byte(prefix), FromLsn: fromLsn})
	if err != nil {
		return nil, err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if len(message.Events) > 0 {
			return message.Events[0], nil
		}
	}
}

// errorReason is the reason behind a gRPC status: the ErrorInfo in its details.
func errorReason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}

func run(address string) error {
	// With TLS and a token: credentials.NewClientTLSFromFile, and metadata.AppendToOutgoingContext(ctx,
	// "authorization", "Bearer "+token).
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	kv, watch := pb.NewKVClient(conn), pb.NewWatchClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	// Acknowledged means: on the disk.
	if _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("greeting"), Value: []byte("hello")}); err != nil {
		return err
	}
	got, err := kv.Get(ctx, &pb.GetRequest{Key: []byte("greeting")})
	if err != nil {
		return err
	}
	fmt.Printf("greeting = %s\n", got.Value)
	if got, err = kv.Get(ctx, &pb.GetRequest{Key: []byte("nobody")}); err != nil {
		return err
	}
	if !got.Found {
		fmt.Println("nobody is not there")
	}

	for i := 0; i < 2; i++ {
		visits, err := increment(ctx, kv, "visits")
		if err != nil {
			return err
		}
		fmt.Println("visits =", visits)
	}
	late, err := kv.Write(ctx, &pb.WriteRequest{
		Ops: []*pb.Op{{Op: &pb.Op_Delete{Delete: &pb.DeleteOp{Key: []byte("visits")}}}},
		Conditions: []*pb.Condition{
			{Key: []byte("visits"), Expected: &pb.Condition_ValueEquals{ValueEquals: []byte("1")}}},
	})
	if err != nil {
		return err
	}
	if !late.Applied {
		fmt.Println("a write on an old state was refused")
	}

	// Several operations as one.
	var ops []*pb.Op
	for _, name := range []string{"apple", "banana", "cherry", "damson", "elder"} {
		ops = append(ops, put("fruit/"+name, "ripe"))
	}
	if _, err := kv.Write(ctx, &pb.WriteRequest{Ops: ops}); err != nil {
		return err
	}
	for token, more := []byte(nil), true; more; more = len(token) > 0 {
		var keys []string
		if keys, token, err = page(ctx, kv, "fruit/", 2, token); err != nil {
			return err
		}
		fmt.Println("page:", strings.Join(keys, " "))
	}

	// A watch from an LSN misses nothing, whatever is written before it has begun.
	written, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("greeting"), Value: []byte("good-bye")})
	if err != nil {
		return err
	}
	event, err := firstChange(ctx, watch, "greeting", written.Lsn)
	if err != nil {
		return err
	}
	fmt.Printf("watched: put %s = %s\n", event.Key, event.Value)

	if _, err := kv.Get(ctx, &pb.GetRequest{}); err != nil {
		fmt.Println("error:", code.Code(status.Code(err)), errorReason(err))
	}
	return nil
}

func main() {
	address := "127.0.0.1:7700"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	if err := run(address); err != nil {
		log.Fatal(err)
	}
}
