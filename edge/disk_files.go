package edge

import (
	"container/list"
	"os"
	"sync"
)

// maxOpenFiles bounds the descriptors that the disk tier keeps for reading.
const maxOpenFiles = 512

// openFiles keeps data files open for reading, so that a hit is one pread. Those unused for longest are closed.
type openFiles struct {
	path func(ObjectID) string

	mu    sync.Mutex // guards the fields below; not held over I/O
	files map[ObjectID]*openFile
	line  list.List // of *openFile, the one used last in front
	drops uint64    // files dropped so far
}

type openFile struct {
	*os.File
	id   ObjectID
	refs int // readers, and one for being in files
	at   *list.Element
}

func newOpenFiles(path func(ObjectID) string) *openFiles {
	return &openFiles{path: path, files: map[ObjectID]*openFile{}}
}

// get opens a file. Give it back with put.
func (c *openFiles) get(id ObjectID) (*openFile, error) {
	c.mu.Lock()
	if f := c.files[id]; f != nil {
		f.refs++
		c.line.MoveToFront(f.at)
		c.mu.Unlock()
		return f, nil
	}
	drops := c.drops
	c.mu.Unlock()
	raw, err := os.Open(c.path(id))
	if err != nil {
		return nil, err
	}
	f := &openFile{File: raw, id: id, refs: 1}
	c.mu.Lock()
	var old *openFile
	// A file that was dropped meanwhile may be this one: then it serves once and is not kept.
	if c.files[id] == nil && c.drops == drops {
		f.refs++
		f.at = c.line.PushFront(f)
		c.files[id] = f
		if c.line.Len() > maxOpenFiles {
			old = c.take(c.line.Back().Value.(*openFile))
		}
	}
	c.mu.Unlock()
	old.close()
	return f, nil
}

func (c *openFiles) put(f *openFile) {
	c.mu.Lock()
	f.refs--
	last := f.refs == 0
	c.mu.Unlock()
	if last {
		f.close()
	}
}

// drop closes a file that was removed; readers at work keep theirs until they are done.
func (c *openFiles) drop(id ObjectID) {
	c.mu.Lock()
	c.drops++
	var old *openFile
	if f := c.files[id]; f != nil {
		old = c.take(f)
	}
	c.mu.Unlock()
	old.close()
}

// take removes f from the table; it returns f if it is to be closed. The caller holds mu.
func (c *openFiles) take(f *openFile) *openFile {
	c.line.Remove(f.at)
	delete(c.files, f.id)
	if f.refs--; f.refs == 0 {
		return f
	}
	return nil
}

func (c *openFiles) closeAll() {
	c.mu.Lock()
	var old []*openFile
	for _, f := range c.files {
		old = append(old, c.take(f))
	}
	c.drops++
	c.mu.Unlock()
	for _, f := range old {
		f.close()
	}
}

func (f *openFile) close() {
	if f != nil {
		_ = f.Close() // read only: nothing can be lost
	}
}
