// SPDX-License-Identifier: Apache-2.0

// The load of the bench where wrk does not do: a small call beside a bulk reader, exec sessions, watches.
//
// In Go because it shares the processors with what it measures. Each command prints one JSON object. A certificate that
// does not verify, and any answer but the expected one, counts as an error and never as a measurement.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"sort"
	"time"
)

var (
	ca      = flag.String("ca", "", "CA of the server")
	seconds = flag.Float64("seconds", 5, "how long")
	workers = flag.Int("c", 16, "exec: sessions side by side")
	small   = flag.String("small", "", "beside: URL of the small body")
	bulk    = flag.String("bulk", "", "beside, mixed: URL of the large body")
	base    = flag.String("url", "", "exec: URL; watch: URL of the cluster")
	objects = flag.Int("objects", 1000, "watch: how many watches, one on each object")
	rate    = flag.Float64("rate", 100, "watch: writes a second")
	tokens  = flag.String("tokens", "", "file with bearer tokens, one a line")
)

func fail(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func trust() *tls.Config {
	pem, err := os.ReadFile(*ca)
	fail(err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		log.Fatalf("no certificate in %s", *ca)
	}
	return &tls.Config{RootCAs: pool, NextProtos: []string{"http/1.1"}}
}

func client(connections int) *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: trust(), MaxIdleConnsPerHost: connections, MaxIdleConns: 0, DisableCompression: true,
		ReadBufferSize: 4096, WriteBufferSize: 4096,
	}}
}

func get(url, token string) *http.Request {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	fail(err)
	request.Header.Set("Authorization", "Bearer "+token)
	return request
}

type samples []time.Duration

// at is the value that the given part of the samples do not exceed (nearest rank), in milliseconds.
func (s samples) at(part float64) float64 {
	if len(s) == 0 {
		return -1
	}
	sort.Slice(s, func(i, j int) bool { return s[i] < s[j] })
	index := int(part*float64(len(s))+0.999999) - 1
	return float64(s[min(max(index, 0), len(s)-1)]) / float64(time.Millisecond)
}

func (s samples) summary() map[string]any {
	return map[string]any{"count": len(s), "p50": s.at(0.5), "p90": s.at(0.9), "p99": s.at(0.99), "max": s.at(1)}
}

func show(value map[string]any) {
	text, err := json.Marshal(value)
	fail(err)
	fmt.Println(string(text))
}

func main() {
	flag.Parse()
	length := time.Duration(*seconds * float64(time.Second))
	switch flag.Arg(0) {
	case "beside":
		beside(length)
	case "exec":
		exec(length)
	case "watch":
		watch(length)
	default:
		log.Fatal("say beside, exec or watch")
	}
}
