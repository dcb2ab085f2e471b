// Reads records from the start of a topic with franz-go and prints each as one JSON object a line.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A payload is JSON text. The value of a header is bytes, so this prints it as hex.
type row struct {
	Partition int32       `json:"partition"`
	Offset    int64       `json:"offset"`
	AtMs      int64       `json:"at_ms"`
	Key       string      `json:"key"`
	Payload   string      `json:"payload"`
	Headers   [][2]string `json:"headers"`
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: read BOOTSTRAP TOPIC RECORDS")
		os.Exit(2)
	}
	if err := read(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func read(bootstrap, topic, records string) error {
	left, err := strconv.Atoi(records)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	lines := json.NewEncoder(out)
	for left > 0 {
		fetches := client.PollRecords(context.Background(), left)
		if err := fetches.Err(); err != nil {
			return err
		}
		for _, record := range fetches.Records() {
			left--
			if err := lines.Encode(asRow(record)); err != nil {
				return err
			}
		}
	}
	return nil
}

func asRow(record *kgo.Record) row {
	headers := [][2]string{}
	for _, header := range record.Headers {
		headers = append(headers, [2]string{header.Key, hex.EncodeToString(header.Value)})
	}
	at := record.Timestamp.UnixMilli()
	return row{record.Partition, record.Offset, at, string(record.Key), string(record.Value), headers}
}
