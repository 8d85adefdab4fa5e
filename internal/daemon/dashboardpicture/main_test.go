package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A Prometheus of two series whatever it is asked, and one that has nothing.
func TestThePictureHasEveryPanel(t *testing.T) {
	for _, series := range []string{
		`{"metric":{"code":"1001","direction":"<up>"},"values":[[%d,"3"],[%d,"NaN"],[%d,"7"]]},{"metric":{"code":"4404"},"values":[[%[1]d,"1"]]}`, "",
	} {
		now := time.Now().Unix()
		if series != "" {
			series = fmt.Sprintf(series, now-300, now-200, now-100)
		}
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"status":"success","data":{"resultType":"matrix","result":[%s]}}`, series)
		}))
		out := filepath.Join(t.TempDir(), "picture.svg")
		err := run(srv.URL, filepath.Join("..", "..", "..", "docs", "deploy", "prometheus", "dashboard.json"), 10*time.Minute, out)
		srv.Close()
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		dec := xml.NewDecoder(strings.NewReader(string(text)))
		for {
			if _, err := dec.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("the picture is no XML: %v", err)
			}
		}
		for _, want := range []string{"Is it up?", "Why did they leave?", "Connections", "Frames dropped"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("the picture lacks %q", want)
			}
		}
		if strings.Contains(string(text), "NaN") || strings.Contains(string(text), "Inf") {
			t.Error("a coordinate is no number")
		}
		if drawn := strings.Contains(string(text), `class="line"`); drawn != (series != "") {
			t.Errorf("lines are drawn: %t", drawn)
		}
	}
}

func TestWhatPrometheusRefusesIsTold(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"status":"error","error":"parse error"}`)
	}))
	defer srv.Close()
	err := run(srv.URL, filepath.Join("..", "..", "..", "docs", "deploy", "prometheus", "dashboard.json"), time.Minute, filepath.Join(t.TempDir(), "x"))
	if err == nil || !strings.Contains(err.Error(), "panel Scraped") || !strings.Contains(err.Error(), "parse error") {
		t.Errorf("error %v; want the panel and the reason", err)
	}
}
