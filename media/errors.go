package media

import "errors"

// The sentinel errors that cross package borders. Test with errors.Is; wrap with fmt.Errorf("fetch %s: %w", …).
var (
	ErrNotFound    = errors.New("not found")                   // no such object, row or node
	ErrTooLarge    = errors.New("too large")                   // over a documented limit
	ErrCorrupt     = errors.New("corrupt")                     // bytes that contradict their checksum or index
	ErrBusy        = errors.New("busy")                        // a limit on concurrent work is reached: try later
	ErrChanged     = errors.New("changed")                     // a validator given by the caller matches no more
	ErrRange       = errors.New("range not satisfiable")       // RFC 9110 15.5.17
	ErrInvalid     = errors.New("invalid")                     // foreign input that breaks its grammar
	ErrDenied      = errors.New("denied")                      // the credential is good but does not allow this
	ErrNoAccess    = errors.New("missing or wrong credential") // RFC 9110 15.5.2
	ErrUnreachable = errors.New("out of reach")                // a server that the work needs does not answer: going on is no use
)
