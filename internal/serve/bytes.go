package serve

import (
	"fmt"
	"strconv"
	"strings"
)

// ByteCount is a number of bytes as a flag: 512KiB, 256MiB, 4GiB, 1TiB, or plain bytes.
type ByteCount int64

// UnmarshalText reads the flag's text.
func (b *ByteCount) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	shift := 0
	for unit, n := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40} {
		if v, ok := strings.CutSuffix(s, unit); ok {
			s, shift = v, n
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<62)>>shift {
		return fmt.Errorf("%q is no size: want a number with KiB, MiB, GiB or TiB, or plain bytes", text)
	}
	*b = ByteCount(n << shift)
	return nil
}
