package cmcd

import "unsafe"

// Keep makes d's own what it borrowed: its texts are appended to room, its list goes into next, which has to have a
// length of MaxNext. It returns room; d is good for as long as nobody writes to that or to next.
func (d *Data) Keep(room []byte, next []Next) []byte {
	for _, s := range [...]*string{&d.SessionID, &d.ContentID, &d.ObjectType, &d.Format, &d.StreamType, &d.State, &d.CDN, &d.Signature, &d.ErrorCode,
		&d.Event, &d.EventName, &d.Host, &d.URL, &d.ServerDynamic, &d.ServerState} {
		room = keep(room, s)
	}
	if d.Next != nil {
		d.Next = next[:copy(next, d.Next)]
	}
	for i := range d.Next {
		room = keep(keep(room, &d.Next[i].Path), &d.Next[i].Range)
	}
	return room
}

func keep(room []byte, s *string) []byte {
	if *s == "" {
		return room
	}
	n := len(room)
	room = append(room, *s...)
	*s = unsafe.String(&room[n], len(*s))
	return room
}
