package packager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"segue/internal/serve"
)

// sidecars are the endings of what lies beside music in every collection: passed over in folders without a word.
var sidecars = map[string]bool{}

func init() {
	for _, ext := range strings.Fields(".jpg .jpeg .png .gif .webp .bmp .tif .tiff .txt .nfo .log .cue .m3u .m3u8 .pls .xspf .sfv .md5 .ffp .st5 .pdf .doc .rtf .html .htm .url .xml .json .yaml .yml .ini .db .lrc .srt .accurip .torrent .zip .rar .7z .py .sh .lua .cfg") {
		sidecars[ext] = true
	}
}

// Scan lists the files to package under paths: a named file as it is, a folder with all below it but hidden entries
// and sidecars, in order of path. A folder further down that cannot be read is in the list itself, and fails with its
// reason when its turn comes. A path that does not exist, and paths with no file at all, are a serve.SetupError.
func Scan(paths []string) ([]string, error) {
	var files []string
	for _, root := range paths {
		info, err := os.Stat(root)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, serve.Setupf("%s does not exist", root)
		} else if err != nil {
			return nil, serve.Setupf("%w", err)
		}
		if !info.IsDir() {
			files = append(files, root)
			continue
		}
		err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch hidden := strings.HasPrefix(d.Name(), ".") && path != root; {
			case err != nil && path == root:
				return err
			case err != nil: // listed, so that it is reported as the others are: opening it says why
				files = append(files, path)
				if d.IsDir() {
					return filepath.SkipDir
				}
			case d.IsDir() && hidden:
				return filepath.SkipDir
			case d.IsDir() || hidden || sidecars[strings.ToLower(filepath.Ext(path))]:
			case d.Type().IsRegular():
				files = append(files, path)
			case d.Type()&fs.ModeSymlink != 0: // to a file: people link tracks into mixes
				if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
					files = append(files, path)
				}
			}
			return nil
		})
		if err != nil {
			return nil, serve.Setupf("read folder: %w", err)
		}
	}
	slices.Sort(files)
	files = slices.Compact(files)
	if len(files) == 0 {
		return nil, serve.SetupError{Err: fmt.Errorf("no music in %s; name a folder with audio files", strings.Join(paths, ", "))}
	}
	return files, nil
}
