package edge

import (
	"strings"
	"testing"
)

// head is what hls.js in Chromium sends.
const head = "Host: edge.example.com:8081\r\nConnection: keep-alive\r\nsec-ch-ua-platform: \"Linux\"\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36\r\n" +
	"sec-ch-ua: \"Chromium\";v=\"141\", \"Not?A_Brand\";v=\"8\"\r\nsec-ch-ua-mobile: ?0\r\nRange: bytes=812-66347\r\nAccept: */*\r\nOrigin: https://music.example.com\r\n" +
	"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nReferer: https://music.example.com/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\r\n"

// FuzzGuard: what passes has no line that two readers see differently.
func FuzzGuard(f *testing.F) {
	f.Add("HTTP/1.1", "/a", head)
	f.Add("HTTP/1.0", "/a#b", "A: b\r\n c\n\r\n")
	f.Add("HTTP/2.0", "/a", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
	f.Fuzz(func(t *testing.T, proto, target, fields string) {
		if guard([]byte(proto), []byte(target), []byte(fields)) != 0 {
			return
		}
		if strings.Count(fields, "\n") != strings.Count(fields, "\r\n") || strings.Contains(fields, "\n ") || strings.Contains(fields, "\n\t") || strings.ContainsAny(target, "# \r\n\x00") {
			t.Errorf("%q %q", target, fields)
		}
		lower := "\n" + strings.ToLower(fields)
		if strings.Contains(lower, "\ncontent-length:") && strings.Contains(lower, "\ntransfer-encoding:") {
			t.Errorf("%q", fields)
		}
	})
}

func BenchmarkGuard(b *testing.B) {
	proto, target, fields := []byte("HTTP/1.1"), []byte("/media/01J8ZQ4T9S3V5W6X7Y8Z9A0B1C/0123456789abcdef/aac_96.mp4?CMCD=bl%3D21300"), []byte(head)
	b.ReportAllocs()
	for b.Loop() {
		if guard(proto, target, fields) != 0 {
			b.Fatal("refused")
		}
	}
}
