package bench

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Baseline is the simplest relay that forwards correctly: gorilla/websocket reads and
// writes, encoding/json parses envelopes, one lock guards the maps of binaries and of
// phones, and each frame has a deadline and a flush of its own. It has no grace, no probes
// and no limits, so that features that only the relay has do not cost it time.
type Baseline struct {
	mu       sync.RWMutex
	binaries map[string]*baselineConn // by server-id
	phones   map[string]*baselineConn // by conn-id
}

// baselineConn is one connection of the baseline.
type baselineConn struct {
	mu sync.Mutex // serializes writers
	ws *websocket.Conn
}

type envelope struct {
	ConnID    string          `json:"conn_id"`
	Frame     json.RawMessage `json:"frame,omitempty"`
	CloseCode int             `json:"close_code,omitempty"`
}

// The heartbeat and write timeout of the relay.
const (
	heartbeat    = 30 * time.Second
	writeTimeout = 10 * time.Second
)

// NewBaseline returns a relay without connections.
func NewBaseline() *Baseline {
	return &Baseline{binaries: make(map[string]*baselineConn), phones: make(map[string]*baselineConn)}
}

// Handler serves both endpoints.
func (r *Baseline) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/server", r.serveBinary)
	mux.HandleFunc("/v1/client", r.servePhone)
	return mux
}

var upgrader = websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}

// serveBinary registers the binary before the 101 answer, so that a phone that connects
// after the answer finds the binary. A writer to the binary blocks on the binary's lock
// until the upgrade is complete.
func (r *Baseline) serveBinary(w http.ResponseWriter, req *http.Request) {
	id := req.Header.Get("X-Pyrycode-Server")
	e := new(baselineConn)
	e.mu.Lock()
	r.mu.Lock()
	r.binaries[id] = e
	r.mu.Unlock()
	ws, err := upgrader.Upgrade(w, req, nil)
	if err != nil {
		r.mu.Lock()
		delete(r.binaries, id)
		r.mu.Unlock()
		e.mu.Unlock()
		return
	}
	e.ws = ws
	e.mu.Unlock()
	e.serve(func(b []byte) {
		var env envelope
		if json.Unmarshal(b, &env) != nil {
			return
		}
		r.mu.RLock()
		p := r.phones[env.ConnID]
		r.mu.RUnlock()
		if p != nil {
			p.write(env.Frame)
		}
	})
	r.mu.Lock()
	delete(r.binaries, id)
	r.mu.Unlock()
}

func (r *Baseline) servePhone(w http.ResponseWriter, req *http.Request) {
	ws, err := upgrader.Upgrade(w, req, nil)
	if err != nil {
		return
	}
	e := &baselineConn{ws: ws}
	var raw [8]byte
	rand.Read(raw[:])
	id := "c-" + hex.EncodeToString(raw[:])
	server := req.Header.Get("X-Pyrycode-Server")
	r.mu.Lock()
	r.phones[id] = e
	r.mu.Unlock()
	e.serve(func(b []byte) {
		if !json.Valid(b) {
			return
		}
		r.mu.RLock()
		to := r.binaries[server]
		r.mu.RUnlock()
		if to == nil {
			return
		}
		if out, err := json.Marshal(envelope{ConnID: id, Frame: b}); err == nil {
			to.write(out)
		}
	})
	r.mu.Lock()
	delete(r.phones, id)
	to := r.binaries[server]
	r.mu.Unlock()
	if out, err := json.Marshal(envelope{ConnID: id, CloseCode: 1001}); err == nil && to != nil {
		to.write(out)
	}
}

// serve calls message for each message until the connection ends. It sends pings.
func (e *baselineConn) serve(message func([]byte)) {
	defer e.ws.Close()
	done := make(chan struct{})
	defer close(done)
	go e.ping(done)
	alive := func() { _ = e.ws.SetReadDeadline(time.Now().Add(2 * heartbeat)) }
	alive()
	e.ws.SetPongHandler(func(string) error { alive(); return nil })
	for {
		_, b, err := e.ws.ReadMessage()
		if err != nil {
			return
		}
		message(b)
	}
}

func (e *baselineConn) ping(done chan struct{}) {
	t := time.NewTicker(heartbeat)
	defer t.Stop()
	for {
		select {
		case <-done:
			return
		case <-t.C:
			_ = e.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeTimeout))
		}
	}
}

func (e *baselineConn) write(b []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ws == nil {
		return // the upgrade failed
	}
	_ = e.ws.SetWriteDeadline(time.Now().Add(writeTimeout))
	_ = e.ws.WriteMessage(websocket.TextMessage, b)
}
