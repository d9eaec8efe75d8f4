package media

import "time"

// Object is what a store knows of one object.
type Object struct {
	Key         Key
	Size        int64     // bytes
	ETag        string    // strong validator with its quotes, RFC 9110 8.8.3; empty only before a Put
	ContentType string    // media type; empty means application/octet-stream
	SHA256      string    // 64 lower-case hex digits, or empty where the store does not know it
	ModTime     time.Time // whole seconds in UTC
}

// ByteRange is a run of bytes of an object. Length < 0 means "to the end", so the zero value is no bytes
// and WholeObject is everything.
type ByteRange struct{ Offset, Length int64 }

// WholeObject selects all bytes.
var WholeObject = ByteRange{0, -1}

// ContentTypes gives the media type by file ending, for all endings of the object layout.
var ContentTypes = map[string]string{
	".mp4":  "audio/mp4",
	".m3u8": "application/vnd.apple.mpegurl",
	".mpd":  "application/dash+xml",
	".json": "application/json",
	".jpg":  "image/jpeg",
}
