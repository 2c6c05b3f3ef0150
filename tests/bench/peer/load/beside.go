// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

const underWay = 512 * 1024 // bytes after which the bulk reader fills the link

// beside makes small calls, one after the other on one connection, while another connection reads without end.
func beside(length time.Duration) {
	token := readTokens()[0]
	var read, failed atomic.Int64
	go func() {
		reader := client(1)
		buffer := make([]byte, 64*1024)
		for {
			response, err := reader.Do(get(*bulk, token))
			if err != nil || response.StatusCode != http.StatusOK {
				failed.Add(1)
				time.Sleep(100 * time.Millisecond)
				continue
			}
			for {
				n, err := response.Body.Read(buffer)
				read.Add(int64(n))
				if err != nil {
					if err != io.EOF {
						failed.Add(1)
					}
					break
				}
			}
			_ = response.Body.Close()
		}
	}()
	caller := client(1)
	caller.Timeout = 30 * time.Second
	one := func() (time.Duration, bool) {
		begin := time.Now()
		response, err := caller.Do(get(*small, token))
		if err != nil {
			return 0, false
		}
		n, err := io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		return time.Since(begin), err == nil && n > 0 && response.StatusCode == http.StatusOK
	}
	one() // the connection is there before the measurement
	for limit := time.Now().Add(20 * time.Second); read.Load() < underWay && time.Now().Before(limit); {
		time.Sleep(10 * time.Millisecond)
	}
	var taken samples
	begin, before := time.Now(), read.Load()
	for time.Since(begin) < length {
		if spent, ok := one(); ok {
			taken = append(taken, spent)
		} else {
			failed.Add(1)
		}
		time.Sleep(20 * time.Millisecond)
	}
	result := taken.summary()
	result["errors"] = failed.Load()
	result["bulk_mb_per_s"] = float64(read.Load()-before) / time.Since(begin).Seconds() / 1e6
	show(result)
}
