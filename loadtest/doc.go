// Package loadtest plays music to nobody: simulated listeners that do what players do, against a running platform, and a
// report that says what it can carry, or that it cannot be told.
//
//	Config, Scenario -> Run: clock -> listener -> wire -> control plane, edges
//	                         recorder -> Result -> JSON, HTML, Compare, Merge, Threshold
//
// Open loop: people arrive, press play and need their next segment by the clock, whatever the servers do. Every latency
// counts from that intended moment, so that a slow server does not make for fewer samples of its slowness. What the
// generator itself is late by is measured too, and a run in which it was the bottleneck is invalid: see Result.Verdict.
//
// Connections: a listener has one to the edge it plays from and one to the control plane, each opened when it is first
// needed and kept for as long as the server keeps it, as a phone or a browser does over HTTP/1.1, for audio is fetched one
// segment after the other. None is ever shared between listeners: a pool would hide handshakes, the servers' memory per
// connection, and who is behind which address. Against a loopback address each listener also has an address of its own
// in 127.0.0.0/8, so that limits per address and read-ahead see many clients and not one.
//
// Memory: a listener is an entry in a heap of timers. It has a goroutine and a buffer only while a request is under way;
// bodies are thrown away as they come, and hashed for a sample. Parsed playlists are shared.
package loadtest
