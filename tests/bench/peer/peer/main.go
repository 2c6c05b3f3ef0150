// SPDX-License-Identifier: Apache-2.0

// The peer of the bench: what a Go team would build in an afternoon from remotedialer and httputil.ReverseProxy.
//
// The server checks a static token, drops the client's identity headers, sets its own, and sends the request over a
// connection that the agent dials to the API server for it. TLS is on all hops, with the last one inside of the tunnel,
// as remotedialer is commonly used. Connections upstream are kept (Go's default of two per host would be unfair), bodies are
// not decompressed, copying buffers are pooled, and answers are flushed at once, as watches need it.
package main

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rancher/remotedialer"
	"github.com/sirupsen/logrus"
)

const prefix = "/k8s/clusters/"

var (
	listen   = flag.String("listen", "", "server: address and port")
	cert     = flag.String("cert", "", "server: certificate")
	key      = flag.String("key", "", "server: private key")
	ca       = flag.String("ca", "", "CA of the server and of the upstream")
	upstream = flag.String("upstream", "", "https://host:port of the API server")
	connect  = flag.String("connect", "", "agent: wss:// address of the server's tunnel")
	cluster  = flag.String("cluster", "bench", "name of the cluster")
	token    = os.Getenv("PEER_TOKEN")  // of clients
	secret   = os.Getenv("PEER_SECRET") // of the agent
	bearer   = os.Getenv("PEER_BEARER") // for the API server
)

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte  { return *b.pool.Get().(*[]byte) }
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

func same(got, want string) bool {
	return want != "" && subtle.ConstantTimeCompare([]byte(got), []byte(want)) == 1
}

func trust() *tls.Config {
	pem, err := os.ReadFile(*ca)
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{RootCAs: pool}
}

func authorize(request *http.Request) (string, bool, error) {
	return *cluster, same(request.Header.Get("X-Tunnel-Secret"), secret), nil
}

func rewrite(target *url.URL) func(*httputil.ProxyRequest) {
	return func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.URL.Path = strings.TrimPrefix(r.In.URL.Path, prefix+*cluster)
		r.Out.URL.RawPath = ""
		for name := range r.Out.Header {
			if strings.HasPrefix(name, "Impersonate-") {
				delete(r.Out.Header, name)
			}
		}
		r.Out.Header.Set("Authorization", "Bearer "+bearer)
		r.Out.Header.Set("Impersonate-User", "mooring:admin")
		r.Out.Header["Impersonate-Group"] = []string{"mooring:admins", "system:authenticated"}
	}
}

func serve() error {
	tunnel := remotedialer.New(authorize, remotedialer.DefaultErrorWriter)
	target, err := url.Parse(*upstream)
	if err != nil {
		return err
	}
	pooled := &buffers{sync.Pool{New: func() any { p := make([]byte, 32*1024); return &p }}}
	proxy := &httputil.ReverseProxy{
		Rewrite:       rewrite(target),
		FlushInterval: -1,
		BufferPool:    pooled,
		Transport: &http.Transport{
			DialContext:     tunnel.Dialer(*cluster),
			TLSClientConfig: trust(), MaxIdleConnsPerHost: 2048, DisableCompression: true,
		},
	}
	mux := http.NewServeMux()
	mux.Handle("/connect", tunnel)
	mux.HandleFunc(prefix+*cluster+"/", func(w http.ResponseWriter, request *http.Request) {
		if !same(strings.TrimPrefix(request.Header.Get("Authorization"), "Bearer "), token) {
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, request)
	})
	server := &http.Server{Addr: *listen, Handler: mux, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	return server.ListenAndServeTLS(*cert, *key)
}

func dial() error {
	dialer := &websocket.Dialer{TLSClientConfig: trust(), HandshakeTimeout: remotedialer.HandshakeTimeOut}
	allowed := strings.TrimPrefix(*upstream, "https://")
	only := func(network, address string) bool { return network == "tcp" && address == allowed }
	for {
		_ = remotedialer.ConnectToProxy(context.Background(), *connect, http.Header{"X-Tunnel-Secret": {secret}}, only, dialer, nil)
		time.Sleep(time.Second)
	}
}

func main() {
	flag.Parse()
	logrus.SetLevel(logrus.WarnLevel)
	err := errors.New("say server or agent")
	switch flag.Arg(0) {
	case "server":
		err = serve()
	case "agent":
		err = dial()
	}
	log.Fatal(err)
}
