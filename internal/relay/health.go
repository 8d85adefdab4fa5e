package relay

import (
	"encoding/json"
	"net/http"
)

// health is the body of /healthz; the order of its fields is part of the
// contract.
type health struct {
	Status    string `json:"status"`
	Version   string `json:"version"`
	Binaries  int    `json:"connected_binaries"`
	Phones    int    `json:"connected_phones"`
	UptimeSec int64  `json:"uptime_seconds"`
}

// Health serves /healthz, for anyone and any method. Both counts come from
// one moment, the same state that the gauges are set from.
func (r *Relay) Health() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c := r.Counts()
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(health{ // a peer that has gone needs no answer
			Status:    "ok",
			Version:   r.cfg.Version,
			Binaries:  c.Binaries,
			Phones:    c.Phones,
			UptimeSec: int64(r.rt.Clock.Now().Sub(r.started).Seconds()),
		})
	})
}
