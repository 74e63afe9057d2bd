// The list of this folder, asked by a client that gRPC generated for Go: main HOST:PORT cases.json
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math"
	"os"
	"reflect"
	"time"

	dotmax "dotmax/v1"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type matrix struct {
	Dtype  string
	Dim    uint32
	Values []float64
	Bits   []uint16
}

type request struct {
	Collection        string
	Queries, Base     *matrix
	TopK              uint32 `json:"top_k"`
	Reduction, Metric string
	MinScore          *float64 `json:"min_score"`
	MaxScore          *float64 `json:"max_score"`
	CountOnly         bool     `json:"count_only"`
	Exclude           [][]uint64
	Version           *uint64
	ResidentQueries   *struct {
		Collection  string
		First, Rows uint64
	} `json:"resident_queries"`
	SelfPairs  string `json:"self_pairs"`
	Pairs      []struct{ Queries, Base *matrix }
	Name, Path string
	A, B       string
}

type object = map[string]interface{}

func (m *matrix) proto() *dotmax.Matrix {
	if m == nil {
		return nil
	}
	var data bytes.Buffer
	count := len(m.Values) + len(m.Bits)
	for _, value := range m.Values {
		var element interface{} = value
		switch m.Dtype {
		case "FLOAT32":
			element = float32(value)
		case "INT8":
			element = int8(value)
		}
		binary.Write(&data, binary.LittleEndian, element)
	}
	binary.Write(&data, binary.LittleEndian, m.Bits)
	return &dotmax.Matrix{
		Rows:  uint64(count) / uint64(m.Dim),
		Dim:   m.Dim,
		Dtype: dotmax.DType(dotmax.DType_value[m.Dtype]),
		Data:  data.Bytes(),
	}
}

func (r *request) exclusions() *dotmax.Exclusions {
	if r.Exclude == nil {
		return nil
	}
	out := &dotmax.Exclusions{RowSplits: []uint64{0}}
	for _, ids := range r.Exclude {
		out.Ids = append(out.Ids, ids...)
		out.RowSplits = append(out.RowSplits, uint64(len(out.Ids)))
	}
	return out
}

func (r *request) search() *dotmax.SearchRequest {
	out := &dotmax.SearchRequest{
		Collection: r.Collection,
		Queries:    r.Queries.proto(),
		TopK:       r.TopK,
		Reduction:  dotmax.Reduction(dotmax.Reduction_value[r.Reduction]),
		Metric:     dotmax.Metric(dotmax.Metric_value[r.Metric]),
		MinScore:   r.MinScore,
		MaxScore:   r.MaxScore,
		CountOnly:  r.CountOnly,
		Exclude:    r.exclusions(),
		SelfPairs:  dotmax.SelfPairs(dotmax.SelfPairs_value[r.SelfPairs]),
		Version:    r.Version,
	}
	if rows := r.ResidentQueries; rows != nil {
		out.ResidentQueries = &dotmax.RowRange{Collection: rows.Collection, First: rows.First, Rows: rows.Rows}
	}
	return out
}

func replyOf(response *dotmax.SearchResponse, err error) object {
	if err != nil {
		return errorOf(err)
	}
	reply := object{"ids": response.Ids, "scores": response.Scores, "best": nil}
	if best := response.Best; best != nil {
		reply["best"] = object{"query_row": best.QueryRow, "id": best.Id, "score": best.Score}
	}
	if response.RowSplits != nil {
		reply["row_splits"] = response.RowSplits
	} else {
		reply["query_rows"] = response.QueryRows
	}
	if response.Truncated != nil {
		reply["truncated"] = response.Truncated
	}
	if response.Counts != nil {
		reply["counts"] = response.Counts
	}
	return object{"reply": reply}
}

func pairsOf(response *dotmax.BatchMaxInnerProductResponse, err error) object {
	if err != nil {
		return errorOf(err)
	}
	reply := object{
		"pairs": response.Pairs, "query_rows": response.QueryRows, "ids": response.Ids, "scores": response.Scores, "best": nil,
	}
	if best := response.Best; best != nil {
		reply["best"] = object{"pair": best.Pair, "query_row": best.QueryRow, "id": best.Id, "score": best.Score}
	}
	return object{"reply": reply}
}

var codeNames = map[codes.Code]string{
	codes.InvalidArgument: "INVALID_ARGUMENT", codes.NotFound: "NOT_FOUND", codes.OutOfRange: "OUT_OF_RANGE",
	codes.FailedPrecondition: "FAILED_PRECONDITION", codes.PermissionDenied: "PERMISSION_DENIED",
}

func errorOf(err error) object {
	failure := status.Convert(err)
	reason, fields := "", []string{}
	for _, detail := range failure.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.Reason
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				fields = append(fields, violation.Field)
			}
		}
	}
	return object{"error": object{"code": codeNames[failure.Code()], "reason": reason, "fields": fields}}
}

type clients struct {
	search      dotmax.DotmaxClient
	collections dotmax.CollectionsClient
}

func (c *clients) stream(ctx context.Context, requests []*request) object {
	stream, err := c.search.SearchStream(ctx)
	if err != nil {
		return errorOf(err)
	}
	for tag, each := range requests {
		message := each.search()
		message.Tag = uint64(tag)
		if err := stream.Send(message); err != nil {
			return errorOf(err)
		}
	}
	stream.CloseSend()
	replies := make([]object, len(requests))
	for {
		result, err := stream.Recv()
		if err == io.EOF {
			return object{"replies": replies}
		}
		if err != nil {
			return errorOf(err)
		}
		if failure := result.GetStatus(); failure != nil {
			replies[result.Tag] = errorOf(status.ErrorProto(failure))
		} else {
			replies[result.Tag] = replyOf(result.GetResponse(), nil)
		}
	}
}

func (c *clients) list(ctx context.Context) object {
	response, err := c.collections.ListCollections(ctx, &dotmax.ListCollectionsRequest{})
	if err != nil {
		return errorOf(err)
	}
	var reply []object
	for _, each := range response.Collections {
		reply = append(reply, object{"name": each.Name, "rows": each.Rows, "dim": each.Dim, "dtype": each.Dtype.String()})
	}
	return object{"reply": reply}
}

func (c *clients) ask(ctx context.Context, call string, text json.RawMessage) object {
	if call == "stream" {
		var requests []*request
		must(json.Unmarshal(text, &requests))
		return c.stream(ctx, requests)
	}
	var r request
	must(json.Unmarshal(text, &r))
	switch call {
	case "search":
		return replyOf(c.search.Search(ctx, r.search()))
	case "max":
		return replyOf(c.search.MaxInnerProduct(ctx, &dotmax.MaxInnerProductRequest{
			Queries: r.Queries.proto(), Base: r.Base.proto(), TopK: r.TopK,
			Reduction: dotmax.Reduction(dotmax.Reduction_value[r.Reduction]),
		}))
	case "pairs":
		message := &dotmax.BatchMaxInnerProductRequest{Metric: dotmax.Metric(dotmax.Metric_value[r.Metric])}
		for _, pair := range r.Pairs {
			message.Pairs = append(message.Pairs, &dotmax.MatrixPair{Queries: pair.Queries.proto(), Base: pair.Base.proto()})
		}
		return pairsOf(c.search.BatchMaxInnerProduct(ctx, message))
	case "list":
		return c.list(ctx)
	case "drop":
		_, err := c.collections.DropCollection(ctx, &dotmax.DropCollectionRequest{Name: r.Name})
		return errorOf(err)
	case "swap":
		_, err := c.collections.SwapCollections(ctx, &dotmax.SwapCollectionsRequest{A: r.A, B: r.B})
		return errorOf(err)
	case "load":
		stream, err := c.collections.LoadCollection(ctx, &dotmax.LoadCollectionRequest{Name: r.Name, Path: r.Path})
		must(err)
		for err == nil {
			_, err = stream.Recv()
		}
		return errorOf(err)
	}
	return object{"error": "there is no call " + call}
}

// JSON's view of both sides; numbers as bits, so that 0 is not -0.
func plain(value interface{}) interface{} {
	text, err := json.Marshal(value)
	must(err)
	var out interface{}
	must(json.Unmarshal(text, &out))
	return bits(out)
}

func bits(value interface{}) interface{} {
	switch value := value.(type) {
	case float64:
		return fmt.Sprintf("%v/%x", value, math.Float64bits(value))
	case []interface{}:
		for i := range value {
			value[i] = bits(value[i])
		}
		if len(value) == 0 {
			return nil // Go has no empty lists of its own
		}
	case object:
		for key := range value {
			value[key] = bits(value[key])
		}
	}
	return value
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	connection, err := grpc.Dial(os.Args[1], grpc.WithInsecure())
	must(err)
	defer connection.Close()
	client := &clients{dotmax.NewDotmaxClient(connection), dotmax.NewCollectionsClient(connection)}
	text, err := os.ReadFile(os.Args[2])
	must(err)
	var cases []struct {
		Name, Call            string
		Request               json.RawMessage
		Reply, Replies, Error interface{}
	}
	must(json.Unmarshal(text, &cases))

	failed := 0
	for _, each := range cases {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		got := plain(client.ask(ctx, each.Call, each.Request))
		cancel()
		expected := object{}
		for name, value := range (object{"reply": each.Reply, "replies": each.Replies, "error": each.Error}) {
			if value != nil {
				expected[name] = value
			}
		}
		if right := plain(expected); !reflect.DeepEqual(got, right) {
			failed++
			fmt.Printf("%s:\n  got      %v\n  expected %v\n", each.Name, got, right)
		}
	}
	fmt.Printf("%d cases, %d failed\n", len(cases), failed)
	if failed > 0 || len(cases) < 50 {
		os.Exit(1)
	}
}
