// SPDX-License-Identifier: Apache-2.0

// The stub upstream: as much of a Kubernetes API server as an agent asks for, and an exec that ends at once.
//
// It stands behind agents where the API server's own cost would hide the proxy's. It checks no credentials.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"log"
	"net/http"
	"strings"
	"sync"

	"github.com/gorilla/websocket"
)

type object = map[string]any

var (
	listen  = flag.String("listen", "", "address and port")
	cert    = flag.String("cert", "", "certificate")
	key     = flag.String("key", "", "private key")
	uid     = flag.String("uid", "", "uid of the namespace kube-system")
	mutex   sync.Mutex
	secrets = map[string]object{}
	small   = bytes.Repeat([]byte("x"), 3*1024)
	bulk    = bytes.Repeat([]byte("x"), 10*1024*1024)
	upgrade = websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io", "v4.channel.k8s.io"}}
)

func answer(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(value)
}

func encoded(values map[string]string) object {
	data := object{}
	for name, value := range values {
		data[name] = base64.StdEncoding.EncodeToString([]byte(value))
	}
	return data
}

// secret reads and writes the agents' two Secrets; the bench writes mooring-join. Several agents have several namespaces.
func secret(w http.ResponseWriter, r *http.Request) {
	mutex.Lock()
	defer mutex.Unlock()
	if r.Method == http.MethodGet {
		found, ok := secrets[r.PathValue("namespace")+"/"+r.PathValue("name")]
		if !ok {
			answer(w, http.StatusNotFound, object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})
			return
		}
		answer(w, http.StatusOK, found)
		return
	}
	var given struct {
		Metadata   object            `json:"metadata"`
		StringData map[string]string `json:"stringData"`
	}
	if err := json.NewDecoder(r.Body).Decode(&given); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	kept := object{"kind": "Secret", "apiVersion": "v1", "metadata": given.Metadata, "data": encoded(given.StringData)}
	name, _ := given.Metadata["name"].(string)
	secrets[r.PathValue("namespace")+"/"+name] = kept
	code := http.StatusOK
	if r.Method == http.MethodPost {
		code = http.StatusCreated
	}
	answer(w, code, kept)
}

func nodes(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("watch") != "" {
		w.Header().Set("Content-Type", "application/json")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return
	}
	answer(w, http.StatusOK, object{
		"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": object{"resourceVersion": "1"},
		"columnDefinitions": []object{{"name": "Name"}, {"name": "Status"}},
		"rows":              []object{{"cells": []string{"n1", "Ready"}}},
	})
}

// exec answers 101, says Success on the error channel, and closes: the shortest session there is.
func exec(w http.ResponseWriter, r *http.Request) {
	connection, err := upgrade.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer connection.Close()
	_ = connection.WriteMessage(websocket.BinaryMessage, []byte("\x03{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Success\"}"))
	_ = connection.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
	_, _, _ = connection.ReadMessage() // until the client has closed, as an API server waits
}

func body(content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(content)
	}
}

func main() {
	flag.Parse()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", body([]byte("ok")))
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, object{"gitVersion": "v0.0.0-stub"})
	})
	mux.HandleFunc("GET /api/v1/namespaces/kube-system", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, object{"metadata": object{"name": "kube-system", "uid": *uid}})
	})
	mux.HandleFunc("/api/v1/namespaces/{namespace}/secrets/{name}", secret)
	mux.HandleFunc("POST /api/v1/namespaces/{namespace}/secrets", secret)
	mux.HandleFunc("POST /api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusCreated, object{"spec": object{"expirationSeconds": 3600}, "status": object{"token": strings.Repeat("t", 900)}})
	})
	mux.HandleFunc("GET /api/v1/nodes", nodes)
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/configmaps/small", body(small))
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/configmaps/bulk", body(bulk))
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/pods/{name}/exec", exec)
	log.Fatal((&http.Server{Addr: *listen, Handler: mux, ErrorLog: log.New(nowhere{}, "", 0)}).ListenAndServeTLS(*cert, *key))
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil } // clients that leave in a handshake are no news
