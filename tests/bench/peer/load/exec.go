// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// exec sets sessions up and ends them, each on a connection and TLS handshake of its own, as each kubectl exec has it.
func exec(length time.Duration) {
	dialer := &websocket.Dialer{
		TLSClientConfig: trust(), HandshakeTimeout: 30 * time.Second, Subprotocols: []string{"v5.channel.k8s.io"},
		ReadBufferSize: 1024, WriteBufferSize: 1024,
	}
	header := http.Header{"Authorization": {"Bearer " + readTokens()[0]}}
	one := func() bool {
		connection, _, err := dialer.Dial(*base, header)
		if err != nil {
			return false
		}
		defer connection.Close()
		_ = connection.SetReadDeadline(time.Now().Add(30 * time.Second))
		kind, message, err := connection.ReadMessage()
		if err != nil || kind != websocket.BinaryMessage || len(message) == 0 || message[0] != 3 {
			return false
		}
		_, _, err = connection.ReadMessage() // the close; the library answers it
		return websocket.IsCloseError(err, websocket.CloseNormalClosure)
	}
	var lock sync.Mutex
	var group sync.WaitGroup
	var taken samples
	failed := 0
	begin := time.Now()
	for range *workers {
		group.Go(func() {
			for time.Since(begin) < length {
				start := time.Now()
				ok := one()
				lock.Lock()
				if ok {
					taken = append(taken, time.Since(start))
				} else {
					failed++
				}
				lock.Unlock()
				if !ok {
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
	}
	group.Wait()
	result := taken.summary()
	result["errors"] = failed
	result["per_s"] = float64(len(taken)) / time.Since(begin).Seconds()
	show(result)
}
