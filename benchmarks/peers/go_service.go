// A plain Go service with the same contract: net/http, a goroutine and a channel of 10 per client, messages
// dropped and counted when the channel is full. It needs the standard library only; the few lines of the Redis
// protocol that a subscriber uses are written out below.
//
// Environment: SSE_PORT, REDIS_PORT, SSE_HEARTBEAT_SECONDS, SSE_JWT_SECRET, SSE_TLS_CERT, SSE_TLS_KEY.
// GET /sse?user_id=N (with a secret: of the user that the bearer token names), /healthz, /stats.
package main

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const buffer = 10 // messages per client

var (
	mutex      sync.RWMutex
	clients    = map[string]map[chan []byte]struct{}{} // by user
	dropped    atomic.Int64
	subscribed atomic.Bool
)

func add(user string, c chan []byte) {
	mutex.Lock()
	defer mutex.Unlock()
	if clients[user] == nil {
		clients[user] = map[chan []byte]struct{}{}
	}
	clients[user][c] = struct{}{}
}

func remove(user string, c chan []byte) {
	mutex.Lock()
	defer mutex.Unlock()
	delete(clients[user], c)
	if len(clients[user]) == 0 {
		delete(clients, user)
	}
}

// deliver makes the event's bytes once, however many clients get them.
func deliver(payload []byte) {
	var head struct {
		User json.Number `json:"user_id"`
	}
	if json.Unmarshal(payload, &head) != nil {
		return
	}
	event := append(append([]byte("data: "), payload...), '\n', '\n')
	mutex.RLock()
	defer mutex.RUnlock()
	for c := range clients[head.User.String()] {
		select {
		case c <- event:
		default:
			dropped.Add(1)
		}
	}
}

func stream(w http.ResponseWriter, r *http.Request) {
	user := r.URL.Query().Get("user_id")
	if len(secret) > 0 {
		if user = userOfToken(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")); user == "" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
	}
	c := make(chan []byte, buffer)
	add(user, c)
	defer remove(user, c)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	flusher := w.(http.Flusher)
	fmt.Fprintf(w, "event: connected\ndata: {\"user_id\":%q}\n\n", user)
	flusher.Flush()
	heartbeat := time.NewTicker(heartbeatPeriod())
	defer heartbeat.Stop()
	for {
		select {
		case event := <-c:
			if _, err := w.Write(event); err != nil {
				return
			}
			if len(c) == 0 { // what is queued leaves in one write
				flusher.Flush()
			}
		case t := <-heartbeat.C:
			fmt.Fprintf(w, "event: heartbeat\ndata: {\"server_time\":%q}\n\n", t.UTC().Format(time.RFC3339))
			flusher.Flush()
		case <-r.Context().Done():
			return
		}
	}
}

var secret = []byte(os.Getenv("SSE_JWT_SECRET"))

// userOfToken gives the user that a valid HS256 token names, or "".
func userOfToken(token string) string {
	part := strings.Split(token, ".")
	if len(part) != 3 {
		return ""
	}
	var head struct{ Alg string }
	var claims struct {
		Sub string
		Exp int64
	}
	raw := make([][]byte, 3)
	for i := range part {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(part[i]); err != nil {
			return ""
		}
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(part[0] + "." + part[1]))
	if json.Unmarshal(raw[0], &head) != nil || head.Alg != "HS256" || !hmac.Equal(mac.Sum(nil), raw[2]) {
		return ""
	}
	if json.Unmarshal(raw[1], &claims) != nil || claims.Exp <= time.Now().Unix() {
		return ""
	}
	return claims.Sub
}

func heartbeatPeriod() time.Duration {
	seconds, err := strconv.ParseFloat(os.Getenv("SSE_HEARTBEAT_SECONDS"), 64)
	if err != nil {
		seconds = 30
	}
	return time.Duration(seconds * float64(time.Second))
}

// bulk reads one "$<length>\r\n<bytes>\r\n"; any other kind of line is returned as it is.
func bulk(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadString('\n')
	if err != nil || line[0] != '$' {
		return []byte(line), err
	}
	n, _ := strconv.Atoi(strings.TrimSpace(line[1:]))
	b := make([]byte, n+2)
	_, err = io.ReadFull(r, b)
	return b[:n], err
}

func subscribe() error {
	conn, err := net.Dial("tcp", "127.0.0.1:"+os.Getenv("REDIS_PORT"))
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Fprint(conn, "*2\r\n$9\r\nSUBSCRIBE\r\n$13\r\nnotifications\r\n")
	r := bufio.NewReaderSize(conn, 1<<16)
	for {
		if _, err := r.ReadString('\n'); err != nil { // "*3"
			return err
		}
		kind, err := bulk(r)
		if err != nil {
			return err
		}
		if _, err = bulk(r); err != nil { // the channel's name
			return err
		}
		payload, err := bulk(r)
		if err != nil {
			return err
		}
		if string(kind) == "message" {
			deliver(payload)
		} else {
			subscribed.Store(true)
		}
	}
}

func main() {
	go func() { log.Fatal("redis: ", subscribe()) }()
	http.HandleFunc("/sse", stream)
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !subscribed.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "{\"dropped\": %d}\n", dropped.Load())
	})
	address := "127.0.0.1:" + os.Getenv("SSE_PORT")
	if cert := os.Getenv("SSE_TLS_CERT"); cert != "" {
		log.Fatal(http.ListenAndServeTLS(address, cert, os.Getenv("SSE_TLS_KEY"), nil))
	}
	log.Fatal(http.ListenAndServe(address, nil))
}
