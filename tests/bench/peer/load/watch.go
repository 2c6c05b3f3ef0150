// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const namespace = "watched"

func readTokens() []string {
	text, err := os.ReadFile(*tokens)
	fail(err)
	return strings.Fields(string(text))
}

type event struct {
	Type   string
	Object struct {
		Metadata struct{ ResourceVersion string }
		Data     map[string]string
	}
}

// watcher follows one object. Every write to it has a number; each number must come once and in order.
type watcher struct {
	lock  sync.Mutex
	sent  []time.Time // when each write was made, by number
	acked int
	next  int // the number that comes next
	seen  int
	wrong int // came twice, late, or was never sent
	ended string
	taken samples
}

func (w *watcher) note(text string) {
	number, err := strconv.Atoi(text)
	w.lock.Lock()
	defer w.lock.Unlock()
	if err != nil || number < w.next || number >= len(w.sent) {
		w.wrong++
		return
	}
	w.taken = append(w.taken, time.Since(w.sent[number]))
	w.next = number + 1
	w.seen++
}

func (w *watcher) follow(caller *http.Client, request *http.Request, opened func(bool)) {
	response, err := caller.Do(request)
	if err != nil || response.StatusCode != http.StatusOK {
		opened(false)
		w.ended = fmt.Sprint("not opened: ", err)
		if err == nil {
			w.ended = response.Status
			_ = response.Body.Close()
		}
		return
	}
	opened(true)
	lines := bufio.NewReaderSize(response.Body, 4096)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			w.lock.Lock()
			w.ended = err.Error()
			w.lock.Unlock()
			return
		}
		var one event
		if json.Unmarshal(line, &one) == nil && one.Type == "MODIFIED" {
			w.note(one.Object.Data["n"])
		}
	}
}

// watch opens the watches, then writes to the objects in turn at the given rate through the same way, and counts.
func watch(length time.Duration) {
	owners := readTokens()
	caller := client(len(owners) * 2000)
	url := *base + "/api/v1/namespaces/" + namespace + "/configmaps"
	do := func(method, url, token, kind, body string) (int, []byte) {
		request, err := http.NewRequest(method, url, bytes.NewBufferString(body))
		fail(err)
		request.Header.Set("Authorization", "Bearer "+token)
		request.Header.Set("Content-Type", kind)
		response, err := caller.Do(request)
		if err != nil {
			return 0, []byte(err.Error())
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return response.StatusCode, text
	}
	versions := make([]string, *objects)
	parallel(32, *objects, func(i int) {
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"w%d"},"data":{"n":"-1"}}`, i)
		code, text := do(http.MethodPost, url, owners[0], "application/json", body)
		var made struct {
			Metadata struct{ ResourceVersion string }
		}
		if code != http.StatusCreated || json.Unmarshal(text, &made) != nil {
			fail(fmt.Errorf("object %d: %d %s", i, code, text))
		}
		versions[i] = made.Metadata.ResourceVersion
	})
	watchers := make([]*watcher, *objects)
	var open, refused atomic.Int64
	parallel(32, *objects, func(i int) {
		watchers[i] = &watcher{}
		query := fmt.Sprintf("?watch=1&timeoutSeconds=7200&fieldSelector=metadata.name%%3Dw%d&resourceVersion=%s", i, versions[i])
		done := make(chan struct{})
		go watchers[i].follow(caller, get(url+query, owners[i%len(owners)]), func(ok bool) {
			if ok {
				open.Add(1)
			} else {
				refused.Add(1)
			}
			close(done)
		})
		<-done
	})
	var group sync.WaitGroup
	var notMade atomic.Int64
	var why atomic.Value
	// Together with the watches they stay below the 1,024 streams of one session.
	slots := make(chan struct{}, 20)
	begin := time.Now()
	written := 0
	for ; time.Since(begin) < length; written++ {
		time.Sleep(time.Until(begin.Add(time.Duration(float64(written) / *rate * float64(time.Second)))))
		index := written % *objects
		one := watchers[index]
		one.lock.Lock()
		number := len(one.sent)
		busy := number > one.acked // its write before is not answered yet: order would be open
		if !busy {
			one.sent = append(one.sent, time.Now())
		}
		one.lock.Unlock()
		if busy {
			notMade.Add(1)
			continue
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			code, text := do(http.MethodPatch, fmt.Sprintf("%s/w%d", url, index), owners[0],
				"application/merge-patch+json", fmt.Sprintf(`{"data":{"n":"%d"}}`, number))
			if code != http.StatusOK {
				notMade.Add(1)
				why.CompareAndSwap(nil, fmt.Sprintf("%d %.300s", code, text))
				if code >= 400 && code < 500 { // it was not done: its number comes again
					one.lock.Lock()
					one.sent = one.sent[:number]
					one.lock.Unlock()
				}
				return
			}
			one.lock.Lock()
			one.acked++
			one.lock.Unlock()
		})
	}
	group.Wait()
	spent := time.Since(begin)
	count := func() (acked, seen, wrong, ended int, reason string, taken samples) {
		for _, w := range watchers {
			w.lock.Lock()
			acked, seen, wrong = acked+w.acked, seen+w.seen, wrong+w.wrong
			if w.ended != "" {
				ended, reason = ended+1, w.ended
			}
			taken = append(taken, w.taken...)
			w.lock.Unlock()
		}
		return
	}
	for limit := time.Now().Add(15 * time.Second); time.Now().Before(limit); time.Sleep(50 * time.Millisecond) {
		if acked, seen, _, _, _, _ := count(); seen >= acked {
			break
		}
	}
	acked, seen, wrong, ended, reason, taken := count()
	result := taken.summary()
	result["open"], result["refused"], result["ended"], result["reason"] = open.Load(), refused.Load(), ended, reason
	reasons, _ := why.Load().(string)
	result["writes"], result["writes_failed"], result["write_reason"] = acked, notMade.Load(), reasons
	result["events"], result["wrong"], result["lost"] = seen, wrong, max(acked-seen, 0)
	result["writes_per_s"], result["events_per_s"] = float64(acked)/spent.Seconds(), float64(seen)/spent.Seconds()
	show(result)
}

func parallel(width, count int, work func(int)) {
	slots := make(chan struct{}, width)
	var group sync.WaitGroup
	for i := range count {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			work(i)
		})
	}
	group.Wait()
}
