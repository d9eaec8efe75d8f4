// Package s3store keeps objects in a bucket of MinIO or any other S3.
package s3store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"segue/internal/serve"
	"segue/media"

	"github.com/cenkalti/backoff/v5"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/time/rate"
)

// Config says which bucket. Credentials are in files' contents or the environment, never in URLs.
type Config struct {
	Endpoint  string // scheme://host[:port]; http or https
	Bucket    string
	Prefix    string // put before every key; "" or ending in "/"
	Region    string // default us-east-1
	AccessKey string // empty: anonymous
	SecretKey string
	Create    bool // make the bucket when it is missing

	DialTimeout      time.Duration // default 2 s
	FirstByte        time.Duration // until a reply's header; default 10 s
	Attempts         uint          // per call, the first included; default 4
	RetriesPerSecond float64       // budget of the whole store: retries a second, burst of ten times that; default 2
}

// PartSize is the size of one part of a multipart upload; smaller objects go in one request.
const PartSize = 16 << 20

const metaSHA256 = "Segue-Sha256" // user metadata: S3's ETag is no digest of ours

// Store implements origin.Store on one bucket.
type Store struct {
	cfg    Config
	client *minio.Client
	budget *rate.Limiter
}

// ParseURL reads the origin URL form "s3://bucket[/prefix]?endpoint=http://host:9000&region=…&create=true".
func ParseURL(raw string) (Config, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.User != nil {
		return Config{}, fmt.Errorf("origin %q: want s3://bucket[/prefix][?endpoint=http://host:port]: %w", raw, media.ErrInvalid)
	}
	c := Config{Bucket: u.Host, Prefix: strings.TrimPrefix(u.Path, "/")}
	if c.Prefix != "" && !strings.HasSuffix(c.Prefix, "/") {
		c.Prefix += "/"
	}
	for k, v := range u.Query() {
		switch k {
		case "endpoint":
			c.Endpoint = v[0]
		case "region":
			c.Region = v[0]
		case "create":
			c.Create = v[0] == "true"
		default:
			return Config{}, fmt.Errorf("origin %q: unknown option %q, want endpoint, region or create: %w", raw, k, media.ErrInvalid)
		}
	}
	return c, nil
}

// OpenURL opens what ParseURL reads, with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, when the URL names no endpoint,
// AWS_ENDPOINT_URL of the environment: the names that S3 tools use. attempts is Config.Attempts: 1 where the caller repeats
// by itself. Its errors are a serve.SetupError.
func OpenURL(ctx context.Context, where string, attempts uint, getenv func(string) string) (*Store, error) {
	c, err := ParseURL(where)
	if err != nil {
		return nil, serve.SetupError{Err: err}
	}
	c.Attempts, c.AccessKey, c.SecretKey = attempts, getenv("AWS_ACCESS_KEY_ID"), getenv("AWS_SECRET_ACCESS_KEY")
	if c.Endpoint == "" {
		c.Endpoint = getenv("AWS_ENDPOINT_URL")
	}
	s, err := Open(ctx, c)
	if err != nil {
		return nil, serve.Setupf("%w; start it, or correct the origin, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", err)
	}
	return s, nil
}

// Open checks that the bucket can be reached, and makes it when that is allowed.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Endpoint == "" {
		c.Endpoint = "https://s3.amazonaws.com"
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("s3 endpoint %q: want http://host:port or https://host: %w", c.Endpoint, media.ErrInvalid)
	}
	if c.Region == "" {
		c.Region = "us-east-1"
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 2 * time.Second
	}
	if c.FirstByte == 0 {
		c.FirstByte = 10 * time.Second
	}
	if c.Attempts == 0 {
		c.Attempts = 4
	}
	if c.RetriesPerSecond == 0 {
		c.RetriesPerSecond = 2
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds:        credentials.NewStaticV4(c.AccessKey, c.SecretKey, ""),
		Secure:       u.Scheme == "https",
		Region:       c.Region,
		MaxRetries:   1, // retries have one owner: call
		BucketLookup: minio.BucketLookupPath,
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: c.DialTimeout}).DialContext,
			TLSHandshakeTimeout:   c.DialTimeout,
			ResponseHeaderTimeout: c.FirstByte,
			MaxIdleConnsPerHost:   64,
			IdleConnTimeout:       time.Minute,
			DisableCompression:    true, // the bytes are the object
		},
	})
	if err != nil {
		return nil, fmt.Errorf("s3 %s: %w", c.Endpoint, err)
	}
	s := &Store{cfg: c, client: client, budget: rate.NewLimiter(rate.Limit(c.RetriesPerSecond), int(10*c.RetriesPerSecond))}
	ctx, cancel := context.WithTimeout(ctx, c.FirstByte)
	defer cancel()
	ok, err := client.BucketExists(ctx, c.Bucket)
	if err == nil && !ok && c.Create {
		err = client.MakeBucket(ctx, c.Bucket, minio.MakeBucketOptions{Region: c.Region})
		if minio.ToErrorResponse(err).Code == "BucketAlreadyOwnedByYou" {
			err = nil // somebody else made it in between
		}
		ok = err == nil
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("s3 bucket %s at %s: %w", c.Bucket, c.Endpoint, classify(err))
	case !ok:
		return nil, fmt.Errorf("s3 bucket %s at %s does not exist; make it, or allow it with create=true: %w", c.Bucket, c.Endpoint, media.ErrNotFound)
	}
	return s, nil
}

// Put uploads in one request, or in parts when the object is larger than PartSize. A body that can seek is retried.
func (s *Store) Put(ctx context.Context, o media.Object, r io.Reader) (media.Object, error) {
	if o.ContentType == "" {
		o.ContentType = media.ContentTypes[path.Ext(string(o.Key))]
	}
	opts := minio.PutObjectOptions{ContentType: o.ContentType, PartSize: PartSize, UserMetadata: map[string]string{}}
	seeker, _ := r.(io.Seeker)
	attempts := s.cfg.Attempts
	if seeker == nil {
		attempts = 1
	}
	var info minio.UploadInfo
	var sum *digest
	err := s.call(ctx, attempts, func() error {
		if seeker != nil {
			if _, err := seeker.Seek(0, io.SeekStart); err != nil {
				return backoff.Permanent(err)
			}
		}
		// The body is hashed as it leaves. A wrong one is cut before its end, so S3 never gets a whole object:
		// neither the single request nor the multipart upload completes.
		sum = newDigest(r, o.Size, o.SHA256)
		if o.SHA256 != "" {
			opts.UserMetadata[metaSHA256] = o.SHA256
		}
		var err error
		info, err = s.client.PutObject(ctx, s.cfg.Bucket, s.name(o.Key), sum, o.Size, opts)
		if sum.err != nil {
			return backoff.Permanent(sum.err)
		}
		return err
	})
	if err != nil {
		return media.Object{}, fmt.Errorf("put %s: %w", o.Key, err)
	}
	o.Size, o.ETag, o.ModTime = info.Size, `"`+info.ETag+`"`, info.LastModified.UTC().Truncate(time.Second)
	if o.ModTime.Unix() <= 0 { // the reply to a single PUT has no date
		if o, err = s.Stat(ctx, o.Key); err != nil {
			return media.Object{}, err
		}
	}
	o.SHA256 = hex.EncodeToString(sum.sum.Sum(nil))
	return o, nil
}

// Get sends one ranged GET, with If-Match when a validator is given.
func (s *Store) Get(ctx context.Context, key media.Key, rng media.ByteRange, ifMatch string) (io.ReadCloser, media.Object, error) {
	if rng.Offset < 0 {
		return nil, media.Object{}, fmt.Errorf("get %s from %d: %w", key, rng.Offset, media.ErrRange)
	}
	var opts minio.GetObjectOptions
	if ifMatch != "" {
		_ = opts.SetMatchETag(strings.Trim(ifMatch, `"`))
	}
	empty := rng.Length == 0
	switch {
	case empty: // HTTP has no range of no bytes
		opts.Set("Range", fmt.Sprintf("bytes=%d-%d", rng.Offset, rng.Offset))
	case rng.Length > 0:
		opts.Set("Range", fmt.Sprintf("bytes=%d-%d", rng.Offset, rng.Offset+rng.Length-1))
	case rng.Offset > 0:
		opts.Set("Range", fmt.Sprintf("bytes=%d-", rng.Offset))
	}
	var body io.ReadCloser
	var info minio.ObjectInfo
	var header http.Header
	err := s.call(ctx, s.cfg.Attempts, func() (err error) {
		body, info, header, err = minio.Core{Client: s.client}.GetObject(ctx, s.cfg.Bucket, s.name(key), opts)
		return err
	})
	if errors.Is(err, media.ErrRange) && rng.Offset == 0 { // any range of an empty object
		o, serr := s.Stat(ctx, key)
		if serr == nil && o.Size == 0 {
			return io.NopCloser(strings.NewReader("")), o, nil
		}
	}
	if err != nil {
		return nil, media.Object{}, fmt.Errorf("get %s: %w", key, err)
	}
	o := object(key, info)
	if cr := header.Get("Content-Range"); cr != "" {
		if _, err := fmt.Sscanf(cr[strings.LastIndexByte(cr, '/')+1:], "%d", &o.Size); err != nil {
			body.Close()
			return nil, o, fmt.Errorf("get %s: Content-Range %q: %w", key, cr, media.ErrCorrupt)
		}
	}
	if empty {
		body.Close()
		return io.NopCloser(strings.NewReader("")), o, nil
	}
	return body, o, nil
}

// Stat sends one HEAD.
func (s *Store) Stat(ctx context.Context, key media.Key) (media.Object, error) {
	var info minio.ObjectInfo
	err := s.call(ctx, s.cfg.Attempts, func() (err error) {
		info, err = s.client.StatObject(ctx, s.cfg.Bucket, s.name(key), minio.StatObjectOptions{})
		return err
	})
	if err != nil {
		return media.Object{}, fmt.Errorf("stat %s: %w", key, err)
	}
	return object(key, info), nil
}

// Delete sends one DELETE.
func (s *Store) Delete(ctx context.Context, key media.Key) error {
	err := s.call(ctx, s.cfg.Attempts, func() error {
		return s.client.RemoveObject(ctx, s.cfg.Bucket, s.name(key), minio.RemoveObjectOptions{})
	})
	if err != nil && !errors.Is(err, media.ErrNotFound) {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// List pages through the bucket.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[media.Object, error] {
	return func(yield func(media.Object, error) bool) {
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			if _, err := media.ParseKey(prefix[:i]); err != nil {
				return // no key begins so
			}
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends the client's goroutine when the caller stops early
		for info := range s.client.ListObjects(ctx, s.cfg.Bucket, minio.ListObjectsOptions{Prefix: s.cfg.Prefix + prefix, Recursive: true}) {
			if info.Err != nil {
				yield(media.Object{}, fmt.Errorf("list %s: %w", prefix, classify(info.Err)))
				return
			}
			key, err := media.ParseKey(strings.TrimPrefix(info.Key, s.cfg.Prefix))
			if err != nil {
				continue // not ours: folder markers of other tools
			}
			if !yield(object(key, info), nil) {
				return
			}
		}
	}
}

func (s *Store) name(key media.Key) string { return s.cfg.Prefix + string(key) }

// call runs f until it works, fails for good, or attempts and the store's retry budget are spent.
func (s *Store) call(ctx context.Context, attempts uint, f func() error) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 50*time.Millisecond, 2*time.Second
	first := true
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		if !first && !s.budget.Allow() {
			return struct{}{}, backoff.Permanent(fmt.Errorf("retry budget spent: %w", media.ErrBusy))
		}
		first = false
		err := f()
		if err == nil {
			return struct{}{}, nil
		}
		err = classify(err)
		if !temporary(err) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(wait), backoff.WithMaxTries(attempts))
	if p, ok := errors.AsType[*backoff.PermanentError](err); ok {
		return p.Err
	}
	return err
}

func temporary(err error) bool {
	if r, ok := errors.AsType[minio.ErrorResponse](err); ok {
		return r.StatusCode >= 500 || r.StatusCode == http.StatusTooManyRequests || r.StatusCode == http.StatusRequestTimeout
	}
	for _, final := range []error{media.ErrNotFound, media.ErrChanged, media.ErrRange, media.ErrDenied, media.ErrCorrupt, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, final) {
			return false
		}
	}
	return true // the network
}

// classify wraps a sentinel where S3's answer means one.
func classify(err error) error {
	r, ok := errors.AsType[minio.ErrorResponse](err)
	if !ok {
		return err
	}
	sentinel := map[int]error{
		http.StatusNotFound:                     media.ErrNotFound,
		http.StatusPreconditionFailed:           media.ErrChanged,
		http.StatusRequestedRangeNotSatisfiable: media.ErrRange,
		http.StatusForbidden:                    media.ErrDenied,
		http.StatusUnauthorized:                 media.ErrDenied,
	}[r.StatusCode]
	if sentinel == nil && r.Code == "XMinioObjectNameInvalid" {
		sentinel = media.ErrNotFound
	}
	if sentinel == nil {
		return err
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}

func object(key media.Key, info minio.ObjectInfo) media.Object {
	return media.Object{Key: key, Size: info.Size, ETag: `"` + info.ETag + `"`, ContentType: info.ContentType,
		SHA256: info.UserMetadata[metaSHA256], ModTime: info.LastModified.UTC().Truncate(time.Second)}
}
