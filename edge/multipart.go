package edge

import (
	"crypto/rand"
	"fmt"
	"io"

	"segue/edge/policy"

	"github.com/valyala/fasthttp"
)

// multipart is the body of an answer with several ranges, RFC 9110 14.6: each part is fetched when its turn comes.
type multipart struct {
	door   *door
	m      *Meta
	parts  []policy.Part
	heads  [][]byte // one per part, and the close delimiter
	length int64
	tier   Tier // of the first part

	head []byte // of the part in hand, not read yet
	body *body  // of the part in hand, nil: its head is not read, or it is done
	next int    // part
}

// multipart fetches the first part, so that a failure can still become a status.
func (d *door) multipart(ctx *fasthttp.RequestCtx, m *Meta, a policy.Answer) (*multipart, error) {
	boundary := rand.Text()
	contentType := ""
	for name, value := range m.Fields.All() {
		if name == "Content-Type" {
			contentType = "Content-Type: " + value + "\r\n"
		}
	}
	mp := &multipart{door: d, m: m, parts: a.Parts}
	for i, p := range a.Parts {
		lead := "\r\n"
		if i == 0 {
			lead = ""
		}
		mp.heads = append(mp.heads, fmt.Appendf(nil, "%s--%s\r\n%sContent-Range: %s\r\n\r\n", lead, boundary, contentType, appendContentRange(nil, p.Offset, p.Length, m.Whole)))
		mp.length += p.Length
	}
	mp.heads = append(mp.heads, fmt.Appendf(nil, "\r\n--%s--\r\n", boundary))
	for _, h := range mp.heads {
		mp.length += int64(len(h))
	}
	mp.head = mp.heads[0]
	var err error
	if mp.body, mp.tier, err = d.open(m, policy.Answer{Offset: a.Parts[0].Offset, Length: a.Parts[0].Length}); err != nil {
		return nil, err
	}
	mp.next = 1
	ctx.Response.Header.SetContentType("multipart/byteranges; boundary=" + boundary)
	return mp, nil
}

// Read implements io.Reader.
func (mp *multipart) Read(b []byte) (int, error) {
	for {
		if len(mp.head) > 0 {
			n := copy(b, mp.head)
			mp.head = mp.head[n:]
			return n, nil
		}
		if mp.body != nil {
			n, err := mp.body.Read(b)
			if err != io.EOF {
				return n, err
			}
			mp.end()
			if n > 0 {
				return n, nil
			}
		}
		switch {
		case mp.next > len(mp.parts):
			return 0, io.EOF
		case mp.next == len(mp.parts):
			mp.head = mp.heads[mp.next]
			mp.next++
			continue
		}
		p := mp.parts[mp.next]
		var err error
		if mp.body, _, err = mp.door.open(mp.m, policy.Answer{Offset: p.Offset, Length: p.Length}); err != nil {
			return 0, err
		}
		mp.head = mp.heads[mp.next]
		mp.next++
	}
}

func (mp *multipart) end() {
	if mp.body != nil {
		_ = mp.body.Close()
		mp.body = nil
	}
}

// Close implements io.Closer.
func (mp *multipart) Close() error {
	mp.end()
	return nil
}
