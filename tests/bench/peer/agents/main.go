// SPDX-License-Identifier: Apache-2.0

// Many agents in one process: light sessions that speak mooring-tunnel/1 (docs/protocol/tunnel.md), each with a
// cluster identity and key of its own.
//
// They do what the server sees of an idle agent: handshake with a fresh JWT, HELLO, a status, PONG for PING, a PING of their
// own after 16 s of silence, and after a loss a new dial with the delays of the real agent. They refuse every stream. A
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
	silence, dead                                     = 16 * time.Second, 20 * time.Second
	first, most                                       = 500 * time.Millisecond, 30 * time.Second
)

var (
	ca         = flag.String("ca", "", "CA of the server")
	identities = flag.String("identities", "", "file: a line '<cluster id> <seed of the key, hex>' for each agent")
	url        = flag.String("url", "", "wss:// address of the server")
	audience   = flag.String("audience", "", "audience of the JWT")
	atOnce     = flag.Int("at-once", 64, "handshakes under way at the same time")
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
		one := &agent{id: id, key: ed25519.NewKeyFromSeed([]byte(seed)), held: map[string]bool{}, wake: make(chan struct{}, 1)}
		go one.run()
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

// agent is one cluster's agent. It holds a session to each instance of the server that HELLO lists (section 3).
type agent struct {
	id     string
	key    ed25519.PrivateKey
	lock   sync.Mutex
	held   map[string]bool
	listed []string
	wake   chan struct{}
}

// missing says whether to dial, and what a dial says of the sessions that there are.
func (a *agent) missing() (bool, []string) {
	a.lock.Lock()
	defer a.lock.Unlock()
	held, missing := []string{}, len(a.held) == 0
	for instance := range a.held {
		held = append(held, instance)
	}
	for _, instance := range a.listed {
		missing = missing || !a.held[instance]
	}
	return missing, held
}

// run dials for ever. After a loss the delays have full jitter between 0.5 s and a limit that doubles up to 30 s
// (lib/backoff.py); to find the other processes behind an address it takes 20 ms to 1 s, and rests after 8 tries for each.
func (a *agent) run() {
	limit, tries := 2*first, 0
	for {
		wanted, held := a.missing()
		if !wanted {
			<-a.wake
			limit, tries = 2*first, 0
			if missing, held := a.missing(); missing && len(held) == 0 {
				time.Sleep(first + time.Duration(mathrand.Int64N(int64(limit-first)+1)))
			}
			continue
		}
		switch found, reached := a.dial(held); {
		case found:
			limit, tries = 2*first, 0
		case reached:
			tries++
			if tries > 8*max(1, len(a.listed)) {
				tries = 0
				time.Sleep(most)
			} else {
				time.Sleep(20*time.Millisecond + time.Duration(mathrand.Int64N(int64(min(20*time.Millisecond<<min(tries, 6), time.Second)))))
			}
		default:
			time.Sleep(first + time.Duration(mathrand.Int64N(int64(limit-first)+1)))
			limit = min(2*limit, most)
		}
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
	Kind      string   `json:"kind"`
	Instance  string   `json:"instance"`
	Instances []string `json:"instances"`
}

// dial makes one session and leaves it running. found: it is to an instance that was missing; reached: a server answered.
func (a *agent) dial(held []string) (found, reached bool) {
	slot := <-starting
	defer func() { starting <- slot }()
	dials.Add(1)
	dialer := websocket.Dialer{
		TLSClientConfig: config, HandshakeTimeout: 30 * time.Second, Subprotocols: []string{subprotocol},
		ReadBufferSize: 512, WriteBufferSize: 512, WriteBufferPool: &sync.Pool{},
	}
	headers := http.Header{"Authorization": {"Bearer " + a.token()}}
	if len(held) > 0 {
		headers.Set("Mooring-Held", strings.Join(held, ","))
	}
	connection, response, err := dialer.Dial(*url, headers)
	if err != nil {
		if response != nil && response.StatusCode == http.StatusConflict {
			return false, true
		}
		failures.Add(1)
		return false, false
	}
	send := func(bytes []byte) bool { return connection.WriteMessage(websocket.BinaryMessage, bytes) == nil }
	mine, _ := json.Marshal(map[string]any{
		"protocol": "mooring-tunnel/1", "instance": "bench-" + a.id, "version": "bench", "window": 65536, "max_streams": 1024, "peers": []string{},
	})
	send(frame(hello, 0, mine))
	_ = connection.SetReadDeadline(time.Now().Add(dead))
	_, bytes, err := connection.ReadMessage()
	var theirs greeting
	if err != nil || len(bytes) < 6 || bytes[0] != hello || json.Unmarshal(bytes[6:], &theirs) != nil {
		failures.Add(1)
		_ = connection.Close()
		return false, false
	}
	if !a.joined(theirs.Instance, theirs.Instances) {
		_ = connection.Close()
		return false, true
	}
	status, _ := json.Marshal(map[string]any{
		"kind": "status", "kubernetes_version": "v0.0.0-stub", "node_count": 1, "nodes_ready": 1, "api_server_healthy": true,
		"api_server_message": "", "agent_version": "bench", "conditions": []any{},
	})
	send(frame(message, 0, status))
	go func() {
		a.serve(connection, send)
		_ = connection.Close()
		a.left(theirs.Instance)
	}()
	return true, true
}

// serve answers until the session ends. Reads time out after 16 s of silence, which ends a gorilla connection: so the
// silence is watched by a timer, and the deadline is that of a dead peer.
func (a *agent) serve(connection *websocket.Conn, send func([]byte) bool) {
	var lock sync.Mutex // a connection takes one writer at a time
	locked := func(bytes []byte) {
		lock.Lock()
		defer lock.Unlock()
		send(bytes)
	}
	quiet := time.AfterFunc(silence, func() { locked(frame(ping, 0, make([]byte, 8))) })
	defer quiet.Stop()
	for {
		_ = connection.SetReadDeadline(time.Now().Add(dead))
		_, bytes, err := connection.ReadMessage()
		if err != nil || len(bytes) < 6 {
			return
		}
		quiet.Reset(silence)
		switch bytes[0] {
		case ping:
			locked(frame(pong, 0, bytes[6:]))
		case open:
			locked(frame(refused, binary.BigEndian.Uint32(bytes[2:]), []byte{0, 7}))
		case message:
			var said greeting
			if json.Unmarshal(bytes[6:], &said) == nil && said.Kind == "instances" {
				a.told(said.Instances)
			}
		case goaway:
			return
		}
	}
}

// joined notes a session. False: there is one to this instance already.
func (a *agent) joined(instance string, listed []string) bool {
	a.lock.Lock()
	defer a.lock.Unlock()
	a.listed = listed
	if a.held[instance] {
		return false
	}
	a.held[instance] = true
	connected.Add(1)
	if len(a.held) == 1 {
		clusters.Add(1)
	}
	return true
}

func (a *agent) told(listed []string) {
	a.lock.Lock()
	a.listed = listed
	a.lock.Unlock()
	a.rouse()
}

func (a *agent) left(instance string) {
	a.lock.Lock()
	delete(a.held, instance)
	connected.Add(-1)
	if len(a.held) == 0 {
		clusters.Add(-1)
		a.listed = nil
	}
	a.lock.Unlock()
	a.rouse()
}

func (a *agent) rouse() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}
