package s3store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"

	"segue/media"
)

// digest hashes a body on its way out and refuses to hand over the last byte of one that is not what was announced:
// too short, too long or with another digest. The sender then sees a failed body and S3 never a complete object.
type digest struct {
	r    io.Reader
	sum  hash.Hash
	size int64  // announced, or -1
	want string // hex, or ""
	read int64
	err  error // why the body was refused
}

func newDigest(r io.Reader, size int64, want string) *digest {
	return &digest{r: r, sum: sha256.New(), size: size, want: want}
}

func (d *digest) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	d.sum.Write(p[:n])
	d.read += int64(n)
	end := err == io.EOF || d.size >= 0 && d.read >= d.size
	if !end {
		return n, err
	}
	if got := hex.EncodeToString(d.sum.Sum(nil)); d.size >= 0 && d.read != d.size {
		d.err = fmt.Errorf("%d bytes came, %d were announced: %w", d.read, d.size, media.ErrCorrupt)
	} else if d.want != "" && got != d.want {
		d.err = fmt.Errorf("sha256 %s, want %s: %w", got, d.want, media.ErrCorrupt)
	}
	if d.err != nil {
		return 0, d.err
	}
	return n, err
}
