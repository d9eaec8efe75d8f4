// Package origin keeps the media objects. Store is the seam; dirstore keeps objects in a directory, s3store in
// any S3, memstore in memory for unit tests. All pass the same suite, origin/storetest.
package origin

import (
	"context"
	"io"
	"iter"

	"segue/media"
)

// Store holds immutable objects by key. Every method is safe for concurrent use and takes keys that went
// through media.ParseKey. Errors wrap a sentinel of package media where one fits.
type Store interface {
	// Put stores what r holds under o.Key, whole or not at all, and returns the object as stored, with its ETag.
	// o.Size is the exact number of bytes (-1: unknown); o.ContentType is kept; o.SHA256, when given, is checked
	// and a mismatch is media.ErrCorrupt. Putting the same key again replaces it: Put is idempotent.
	Put(ctx context.Context, o media.Object, r io.Reader) (media.Object, error)

	// Get opens the bytes in rng, cut at the object's end; the caller closes. The returned Object describes the
	// whole object. ifMatch, when not empty, must equal its ETag: else media.ErrChanged. A missing key is
	// media.ErrNotFound; a range that starts at or after the end of a non-empty object is media.ErrRange.
	Get(ctx context.Context, key media.Key, rng media.ByteRange, ifMatch string) (io.ReadCloser, media.Object, error)

	// Stat describes an object without its bytes, or returns media.ErrNotFound.
	Stat(ctx context.Context, key media.Key) (media.Object, error)

	// Delete removes an object. A missing key is no error.
	Delete(ctx context.Context, key media.Key) error

	// List yields the objects whose key begins with prefix, in byte order. Object.SHA256 and ContentType may be empty.
	List(ctx context.Context, prefix string) iter.Seq2[media.Object, error]
}
