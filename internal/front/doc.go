// Package front is what stands between the network and the HTTP handlers of the
// process: the listeners with their socket options, the limits on connections that
// have not been upgraded, PROXY headers and X-Forwarded-For of trusted proxies, the
// limit on TLS handshakes, and the certificate from files or an ACME authority.
//
// It knows nothing of slots, binaries and phones. Of this module it may import
// internal/config only.
//
// Begin with [Front], then read [pending] for the limits and the interface
// certificates for TLS.
package front
