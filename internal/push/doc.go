// Package push wakes phones that have no connection, through Firebase Cloud
// Messaging (FCM).
//
// A binary asks for a wake with a push_wake envelope, which the relay passes to
// [Sender.Wake]. Wake admits it immediately or refuses it, so that no reader of a
// binary waits. An admitted wake runs in a goroutine of its own, continues after the end
// of its binary, and ends in exactly one log line and one count.
//
// A wake has no content: it is a data message with a constant in it, and makes the app
// connect. A wake that arrives twice is therefore harmless, and a late one is still
// useful.
//
// Three things are secret: the key of the service account, the access tokens that it
// obtains, and the tokens of devices. Errors of other packages may contain them, so this
// package never logs or returns such an error. It replaces each by a text of its own.
package push
