// Package push wakes phones that have no connection, through Firebase Cloud
// Messaging (FCM).
//
// A binary asks for a wake with a push_wake envelope; the relay hands it to
// [Sender.Wake]. There it is admitted at once or not at all, so that no
// reader of a binary waits. What is admitted runs as a goroutine of its own,
// survives its binary, and ends in exactly one log line and one count.
//
// A wake says nothing: it is a data message with a constant in it, and makes
// the app connect. So a wake that comes twice is harmless, and one that comes
// late is still of use.
//
// Three things are secret: the service account's key, the access tokens that
// it buys, and the tokens of devices. So no error of another package is ever
// logged or returned as it is: each is put into words of this package first.
package push
