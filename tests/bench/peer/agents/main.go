// SPDX-License-Identifier: Apache-2.0

// Many agents in one process: light sessions that speak mooring-tunnel/1 (docs/protocol/tunnel.md), each with a
// cluster identity and key of its own.
//
// They do what the server sees of an idle agent: handshake with a fresh JWT, HELLO, a status, PONG for PING, a PING of their
// own after 7.5 s of silence, and after a loss a new dial with the delays of the real agent. They refuse every stream. A
// line of JSON with the numbers goes to standard output whenever they changed, at most ten times a second.
package main

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

const (
	hello, open, refused, goaway, ping, pong, message = 1, 2, 4, 9, 10, 11, 12
	subprotocol                                       = "mooring-tunnel.1"
	silence, dead                                     = 7500 * time.Millisecond, 15 * time.Second
	first, most, steady                               = 500 * time.Millisecond, 30 * time.Second, 10 * time.Second
)

var (
	ca         = flag.String("ca", "", "CA of the server")
	identities = flag.String("identities", "", "file: a line '<cluster id> <seed of the key, hex>' for each agent")
	url        = flag.String("url", "", "wss:// address of the server")
	audience   = flag.String("audience", "", "audience of the JWT")
	atOnce     = flag.Int("at-once", 64, "handshakes under way at the same time, until all were connected once")
	sessions   = flag.Int("sessions", 0, "sessions that each agent keeps; 0: one to each instance that HELLO names")
	connected  atomic.Int64 // sessions
	clusters   atomic.Int64 // agents with at least one session
	dials      atomic.Int64
	failures   atomic.Int64
	starting   = make(chan struct{}, 4096)
	config     *tls.Config
)

func main() {
	flag.Parse()
	pem, err := os.ReadFile(*ca)
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	config = &tls.Config{RootCAs: pool, NextProtos: []string{"http/1.1"}}
	file, err := os.Open(*identities)
	if err != nil {
		log.Fatal(err)
	}
	for range *atOnce {
		starting <- struct{}{}
	}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var id, seed string
		if _, err := fmt.Sscanf(lines.Text(), "%s %x", &id, &seed); err != nil {
			log.Fatal(err)
		}
		one := &agent{id: id, key: ed25519.NewKeyFromSeed([]byte(seed)), links: map[string]string{}}
		one.want(*url)
	}
	report()
}

func report() {
	last := ""
	for ; ; time.Sleep(100 * time.Millisecond) {
		line := fmt.Sprintf(`"sessions":%d,"clusters":%d,"dials":%d,"failures":%d`, connected.Load(), clusters.Load(), dials.Load(), failures.Load())
		if line != last {
			fmt.Printf("{\"time\":%.3f,%s}\n", float64(time.Now().UnixMilli())/1000, line)
			last = line
		}
	}
}

// agent is one cluster's agent; links holds the instance that each of its addresses led to.
type agent struct {
	id    string
	key   ed25519.PrivateKey
	lock  sync.Mutex
	links map[string]string
	live  int
}

// want keeps a session to an address, if there is not one already.
func (a *agent) want(address string) {
	a.lock.Lock()
	defer a.lock.Unlock()
	if _, known := a.links[address]; known || (*sessions > 0 && len(a.links) >= *sessions) {
		return
	}
	a.links[address] = ""
	go a.keep(address)
}

// keep dials for ever, with full jitter between 0.5 s and a limit that doubles up to 30 s (agent/backoff.py).
func (a *agent) keep(address string) {
	limit := 2 * first
	for {
		begin := time.Now()
		delay := a.once(address)
		if time.Since(begin) >= steady {
			limit = 2 * first
		}
		if delay == 0 {
			delay = first + time.Duration(mathrand.Int64N(int64(limit-first)+1))
			limit = min(2*limit, most)
		}
		time.Sleep(delay)
	}
}

func (a *agent) token() string {
	now := time.Now().Unix()
	jti := make([]byte, 16)
	_, _ = rand.Read(jti)
	part := func(value any) string {
		text, _ := json.Marshal(value)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signed := part(map[string]any{"alg": "EdDSA", "typ": "mooring-agent+jwt", "kid": a.id}) + "." + part(map[string]any{
		"iss": a.id, "aud": *audience, "iat": now, "nbf": now, "exp": now + 45, "jti": base64.RawURLEncoding.EncodeToString(jti),
	})
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(a.key, []byte(signed)))
}

func frame(kind byte, stream uint32, payload []byte) []byte {
	out := make([]byte, 6, 6+len(payload))
	out[0] = kind
	binary.BigEndian.PutUint32(out[2:], stream)
	return append(out, payload...)
}

type greeting struct {
	Instance string   `json:"instance"`
	Peers    []string `json:"peers"`
}

// once is one session from dial to end. It returns a delay if the usual one does not do.
func (a *agent) once(address string) time.Duration {
	slot := <-starting
	once := sync.OnceFunc(func() { starting <- slot })
	defer once()
	dials.Add(1)
	dialer := websocket.Dialer{
		TLSClientConfig: config, HandshakeTimeout: 30 * time.Second, Subprotocols: []string{subprotocol},
		ReadBufferSize: 512, WriteBufferSize: 512, WriteBufferPool: &sync.Pool{},
	}
	connection, _, err := dialer.Dial(address, http.Header{"Authorization": {"Bearer " + a.token()}})
	if err != nil {
		failures.Add(1)
		return 0
	}
	defer connection.Close()
	send := func(bytes []byte) bool { return connection.WriteMessage(websocket.BinaryMessage, bytes) == nil }
	mine, _ := json.Marshal(map[string]any{
		"protocol": "mooring-tunnel/1", "instance": "bench-" + a.id, "version": "bench", "window": 65536, "max_streams": 1024, "peers": []string{},
	})
	if !send(frame(hello, 0, mine)) {
		return 0
	}
	_ = connection.SetReadDeadline(time.Now().Add(dead))
	_, bytes, err := connection.ReadMessage()
	var theirs greeting
	if err != nil || len(bytes) < 6 || bytes[0] != hello || json.Unmarshal(bytes[6:], &theirs) != nil {
		failures.Add(1)
		return 0
	}
	if !a.joined(address, theirs.Instance) {
		return 30 * time.Second
	}
	defer a.left(address)
	once()
	status, _ := json.Marshal(map[string]any{
		"kind": "status", "kubernetes_version": "v0.0.0-stub", "node_count": 1, "nodes_ready": 1, "api_server_healthy": true,
		"api_server_message": "", "agent_version": "bench", "conditions": []any{},
	})
	send(frame(message, 0, status))
	for _, peer := range theirs.Peers {
		if strings.HasPrefix(peer, "wss://") {
			a.want(peer)
		}
	}
	return a.serve(connection, send)
}

// serve answers until the session ends. Reads time out after 7.5 s of silence, which ends a gorilla connection: so the
// silence is watched by a timer, and the deadline is that of a dead peer.
func (a *agent) serve(connection *websocket.Conn, send func([]byte) bool) time.Duration {
	var lock sync.Mutex // a connection takes one writer at a time
	locked := func(bytes []byte) bool {
		lock.Lock()
		defer lock.Unlock()
		return send(bytes)
	}
	quiet := time.AfterFunc(silence, func() { locked(frame(ping, 0, make([]byte, 8))) })
	defer quiet.Stop()
	for {
		_ = connection.SetReadDeadline(time.Now().Add(dead))
		_, bytes, err := connection.ReadMessage()
		if err != nil || len(bytes) < 6 {
			return 0
		}
		quiet.Reset(silence)
		switch bytes[0] {
		case ping:
			locked(frame(pong, 0, bytes[6:]))
		case open:
			locked(frame(refused, binary.BigEndian.Uint32(bytes[2:]), []byte{0, 7}))
		case goaway:
			return 0
		}
	}
}

// joined notes a session. False: there is one to this instance already.
func (a *agent) joined(address, instance string) bool {
	a.lock.Lock()
	defer a.lock.Unlock()
	for other, known := range a.links {
		if other != address && known == instance {
			return false
		}
	}
	a.links[address] = instance
	a.live++
	connected.Add(1)
	if a.live == 1 {
		clusters.Add(1)
	}
	return true
}

func (a *agent) left(address string) {
	a.lock.Lock()
	defer a.lock.Unlock()
	a.links[address] = ""
	a.live--
	connected.Add(-1)
	if a.live == 0 {
		clusters.Add(-1)
	}
}
