package api

import "time"

// DeadLetter is a message of the play logs that can never be stored as it is: GET /v1/admin/deadletters.
type DeadLetter struct {
	ID        int64     `json:"id"`
	Stream    string    `json:"stream"`     // plays, edgelogs, cmcd
	MessageID string    `json:"message_id"` // under which it was logged
	LoggedAt  time.Time `json:"logged_at"`
	FailedAt  time.Time `json:"failed_at"`
	Reason    string    `json:"reason"`
	Bytes     int64     `json:"bytes"`
	Body      []byte    `json:"body,omitempty"`   // as it stands in the log; one by its id only
	Events    []Event   `json:"events,omitempty"` // what is in it, where it can be read as play events
}

// EdgeLogsAccepted answers POST /v1/fleet/logs: every frame is in the durable log, and the edge may forget it.
type EdgeLogsAccepted struct {
	Frames int `json:"frames"`
	Rows   int `json:"rows"`
}
