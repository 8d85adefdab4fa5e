// Command bom prints the modules of a program and their licences, as CycloneDX: bom
// PROGRAM VERSION. It reads the modules from the build information in the program, and
// recognizes the licences by their texts in the module cache. It downloads missing
// modules. Two runs for the same program print the same text. A module with an unknown
// licence, or with a licence that is not in allowed, is an error.
package main

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	classifier "github.com/google/licenseclassifier/v2"
	"github.com/google/licenseclassifier/v2/assets"
)

// allowed are the licences that require only a notice.
var allowed = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT"}

// component, choice, property and bom are parts of a CycloneDX 1.5 document.
type component struct {
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl,omitempty"`
	Licenses   []choice   `json:"licenses,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type choice struct {
	License struct {
		ID string `json:"id"`
	} `json:"license"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type bom struct {
	Format   string `json:"bomFormat"`
	Spec     string `json:"specVersion"`
	Version  int    `json:"version"`
	Metadata struct {
		Component component `json:"component"`
	} `json:"metadata"`
	Components []component `json:"components"`
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: bom PROGRAM VERSION")
		os.Exit(2)
	}
	b, err := inventory(os.Args[1], os.Args[2])
	if err == nil {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", " ")
		e.SetEscapeHTML(false)
		err = e.Encode(b)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// inventory returns the bill of materials of a program. The error names each module without
// an allowed licence.
func inventory(program, version string) (*bom, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, err
	}
	texts, err := assets.DefaultClassifier()
	if err != nil {
		return nil, err
	}
	b := &bom{Format: "CycloneDX", Spec: "1.5", Version: 1}
	b.Metadata.Component = component{Type: "application", Name: filepath.Base(info.Path), Version: version}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOROOT: %w", err)
	}
	goVersion := strings.TrimPrefix(info.GoVersion, "go")
	std := component{Type: "library", Name: "std", Version: goVersion, PURL: "pkg:golang/std@" + goVersion}
	var problems []error
	add := func(c component, dir string, err error) {
		if err == nil {
			c.Licenses, err = licences(texts, dir)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s %s: %w", c.Name, c.Version, err))
		}
		b.Components = append(b.Components, c)
	}
	add(std, strings.TrimSpace(string(root)), nil)
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		dir, err := fetch(m.Path + "@" + m.Version)
		add(component{Type: "library", Name: m.Path, Version: m.Version, PURL: "pkg:golang/" + m.Path + "@" + m.Version,
			Properties: []property{{"go.sum", m.Sum}}}, dir, err)
	}
	return b, errors.Join(problems...)
}

// fetch returns the directory of a module in the module cache.
func fetch(module string) (dir string, err error) {
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	var got struct{ Dir, Error string }
	if jerr := json.Unmarshal(out, &got); jerr != nil || got.Error != "" || err != nil {
		return "", fmt.Errorf("go mod download: %s%w", got.Error, errors.Join(err, jerr))
	}
	return got.Dir, nil
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([-._].*)?$`)

// licences returns the licences that the files at the top of dir contain.
func licences(texts *classifier.Classifier, dir string) ([]choice, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	found := make(map[string]bool)
	for _, f := range files {
		if f.IsDir() || !licenceFile.MatchString(f.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		for _, m := range texts.Match(texts.Normalize(text)).Matches {
			if m.MatchType == "License" {
				found[m.Name] = true
			}
		}
	}
	if len(found) == 0 {
		return nil, errors.New("found no known licence")
	}
	var all []choice
	for _, id := range slices.Sorted(maps.Keys(found)) {
		if !slices.Contains(allowed, id) {
			return nil, fmt.Errorf("its licence is %s; allowed are %s", id, strings.Join(allowed, ", "))
		}
		var c choice
		c.License.ID = id
		all = append(all, c)
	}
	return all, nil
}
