package geo

import (
	"cmp"
	"fmt"
	"net/netip"

	"github.com/oschwald/maxminddb-golang/v2"
)

// Locator places addresses. Addresses of the own network (loopback, private) are at Home, when that is set.
type Locator struct {
	Home Place
	db   *maxminddb.Reader // nil: only Home is known
}

// OpenLocator reads an MMDB file with city records; an empty path is no file.
func OpenLocator(path string, home Place) (*Locator, error) {
	l := &Locator{Home: home}
	if path == "" {
		return l, nil
	}
	db, err := maxminddb.Open(path)
	if err != nil {
		return nil, fmt.Errorf("place database %s: %w", path, err)
	}
	l.db = db
	return l, nil
}

// Country is the ISO 3166-1 alpha-2 code of an address, or "" where it is not known; of the own network it is Home's.
func (l *Locator) Country(ip netip.Addr) string {
	ip = ip.Unmap()
	if !ip.IsValid() || ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() {
		return l.Home.Country
	}
	var rec struct {
		Country struct {
			ISO string `maxminddb:"iso_code"`
		} `maxminddb:"country"`
		Code string `maxminddb:"country_code"` // as in the country databases of ip-location-db
	}
	if l.db == nil || l.db.Lookup(ip).Decode(&rec) != nil {
		return ""
	}
	return cmp.Or(rec.Country.ISO, rec.Code)
}

// Locate places an address; a record without coordinates is as unknown as no record.
func (l *Locator) Locate(ip netip.Addr) Place {
	ip = ip.Unmap()
	if !ip.IsValid() || ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() {
		return l.Home
	}
	if l.db == nil {
		return Place{}
	}
	var rec struct {
		Location struct {
			Latitude  *float64 `maxminddb:"latitude"`
			Longitude *float64 `maxminddb:"longitude"`
		} `maxminddb:"location"`
		Country struct {
			ISO string `maxminddb:"iso_code"`
		} `maxminddb:"country"`
	}
	if err := l.db.Lookup(ip).Decode(&rec); err != nil || rec.Location.Latitude == nil || rec.Location.Longitude == nil {
		return Place{}
	}
	return Place{Point{*rec.Location.Latitude, *rec.Location.Longitude}, rec.Country.ISO, true}
}
