package packager

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"

	"segue/media"

	"github.com/Eyevinn/mp4ff/mp4"
)

// segmentSeconds is the playing time that a fragment aims at.
const segmentSeconds = 4

// fragment rewrites the one-track MP4 file that ffmpeg made as a CMAF file: ftyp moov sidx (moof mdat)+.
//
// Time on two lines: the media line counts every decoded sample from 0, priming included; the edit list starts the
// presentation after the priming and ends it after the music. The last packet's duration ends with the music too, so
// that a player that takes durations from the fragments comes to the same end. sidx, and with it the playlists, are on
// the presentation line: durations add up to the music exactly.
func fragment(in, out string, e encoding, src pcm) (media.Rendition, error) {
	r := media.Rendition{Name: e.name, File: e.name + ".mp4", Codec: e.codec, BitrateBps: e.bps, SampleRateHz: e.rate,
		Channels: e.channels, Lossless: e.bps == 0, Timescale: e.rate}
	packets, entry, data, err := readPackets(in)
	if err != nil {
		return r, err
	}
	defer data.Close()

	var decoded int64
	for i := range packets {
		if e.frame > 0 {
			packets[i].Dur = uint32(e.frame)
		}
		decoded += int64(packets[i].Dur)
	}
	// Resampling rounds the length to the nearest sample of the new rate.
	music := int64(math.Round(float64(src.samples) * float64(e.rate) / float64(src.rate)))
	music = min(music, decoded-e.priming)
	r.Gapless = media.Gapless{Priming: e.priming, Samples: music, Padding: decoded - e.priming - music}
	if music <= 0 {
		return r, fmt.Errorf("%d samples of %d priming: %w", decoded, e.priming, media.ErrCorrupt)
	}
	padding := r.Gapless.Padding
	for i := len(packets) - 1; padding > 0; i-- {
		cut := min(padding, int64(packets[i].Dur)-1) // a sample of no duration ends some players
		packets[i].Dur -= uint32(cut)
		padding -= cut
		if i == 0 {
			break
		}
	}

	groups := group(packets, e)
	init := initSegment(e, entry, r.Gapless)
	r.Init = media.ByteSpan{Size: int64(init.Size())}
	sidx := &mp4.SidxBox{ReferenceID: 1, Timescale: uint32(e.rate), SidxRefs: make([]mp4.SidxRef, len(groups))}
	r.Index = media.ByteSpan{Offset: r.Init.Size, Size: int64(sidx.Size())}

	f, err := os.Create(out)
	if err != nil {
		return r, err
	}
	defer f.Close()
	at := r.Index.Offset + r.Index.Size
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return r, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	var decodeTime uint64
	for i, g := range groups {
		frag, err := mp4.CreateFragment(uint32(i+1), 1)
		if err != nil {
			return r, err
		}
		frag.EncOptimize = mp4.OptimizeTrun
		var ticks int64
		for _, s := range g {
			body := make([]byte, s.Size)
			if _, err := io.ReadFull(data, body); err != nil {
				return r, fmt.Errorf("packet data: %w", err)
			}
			frag.AddFullSample(mp4.FullSample{Sample: s, DecodeTime: decodeTime, Data: body})
			decodeTime += uint64(s.Dur)
			ticks += int64(s.Dur)
		}
		if i == 0 {
			ticks -= e.priming
		}
		if err := frag.Encode(w); err != nil {
			return r, err
		}
		size := int64(frag.Size())
		r.Segments = append(r.Segments, media.Segment{Offset: at, Size: size, Duration: ticks})
		sidx.SidxRefs[i] = mp4.SidxRef{ReferencedSize: uint32(size), SubSegmentDuration: uint32(ticks), StartsWithSAP: 1, SAPType: 1}
		at += size
	}
	if err := w.Flush(); err != nil {
		return r, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return r, err
	}
	if err := init.Encode(f); err != nil {
		return r, err
	}
	if err := sidx.Encode(f); err != nil {
		return r, err
	}
	r.Size = at
	setRates(&r)
	return r, f.Close()
}

// group cuts packets into fragments of about segmentSeconds; a rest of less than half of that joins the last.
func group(packets []mp4.Sample, e encoding) [][]mp4.Sample {
	frame := int64(packets[0].Dur)
	per := max(1, int(math.Round(float64(segmentSeconds*e.rate)/float64(frame))))
	var groups [][]mp4.Sample
	for len(packets) > 0 {
		n := min(per, len(packets))
		if len(packets)-n < (per+1)/2 {
			n = len(packets)
		}
		groups = append(groups, packets[:n])
		packets = packets[n:]
	}
	return groups
}

// initSegment is ftyp and moov.
func initSegment(e encoding, entry mp4.Box, g media.Gapless) *mp4.InitSegment {
	init := mp4.NewMP4Init()
	// cmfc: ISO/IEC 23000-19 7.2; dash and msix: ISO/IEC 23009-1 6.3.
	init.AddChild(mp4.NewFtyp("cmfc", 0, []string{"cmfc", "iso6", "mp41", "dash", "msix"}))
	moov := mp4.NewMoovBox()
	init.AddChild(moov)
	mvhd := mp4.CreateMvhd()
	mvhd.Timescale, mvhd.NextTrackID = uint32(e.rate), 2
	moov.AddChild(mvhd)
	trak := mp4.CreateEmptyTrak(1, uint32(e.rate), "audio", "und")
	trak.Tkhd.Flags = 7 // enabled, in movie, in preview
	stbl := trak.Mdia.Minf.Stbl
	stbl.Stsd.AddChild(entry)
	if e.codec == "Opus" {
		// Opus in ISOBMFF 4.3.6.2: 80 ms, four packets of 20 ms, are decoded before the sound is right.
		stbl.AddChild(&mp4.SgpdBox{Version: 2, GroupingType: "roll", DefaultLength: 2, DefaultGroupDescriptionIndex: 1,
			SampleGroupEntries: []mp4.SampleGroupEntry{&mp4.RollSampleGroupEntry{RollDistance: -4}}})
	}
	// The edit is the gapless data in the container's own words.
	edts := &mp4.EdtsBox{}
	elst := &mp4.ElstBox{Entries: []mp4.ElstEntry{{SegmentDuration: uint64(g.Samples), MediaTime: g.Priming, MediaRateInteger: 1}}}
	edts.Elst = append(edts.Elst, elst)
	edts.Children = append(edts.Children, elst)
	trak.Edts = edts
	children := []mp4.Box{trak.Tkhd, edts}
	for _, c := range trak.Children {
		if c != mp4.Box(trak.Tkhd) {
			children = append(children, c)
		}
	}
	trak.Children = children
	moov.AddChild(trak)
	mvex := mp4.NewMvexBox()
	mvex.AddChild(&mp4.MehdBox{FragmentDuration: g.Samples})
	trex := mp4.CreateTrex(1)
	trex.DefaultSampleFlags = mp4.SyncSampleFlags
	mvex.AddChild(trex)
	moov.AddChild(mvex)
	return init
}

// readPackets lists the packets of a one-track MP4, its sample entry, and a reader of their bytes in order.
func readPackets(path string) ([]mp4.Sample, mp4.Box, io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, nil, err
	}
	fail := func(err error) ([]mp4.Sample, mp4.Box, io.ReadCloser, error) {
		f.Close()
		return nil, nil, nil, err
	}
	doc, err := mp4.DecodeFile(f, mp4.WithDecodeMode(mp4.DecModeLazyMdat))
	if err != nil {
		return fail(fmt.Errorf("read the encoder's file: %w", err))
	}
	if doc.Moov == nil || len(doc.Moov.Traks) != 1 || len(doc.Moov.Trak.Mdia.Minf.Stbl.Stsd.Children) != 1 {
		return fail(fmt.Errorf("the encoder's file has not one track: %w", media.ErrCorrupt))
	}
	trak := doc.Moov.Trak
	n := trak.GetNrSamples()
	if n == 0 {
		return fail(fmt.Errorf("the encoder's file has no packets: %w", media.ErrCorrupt))
	}
	packets, err := trak.GetSampleData(1, n)
	if err != nil {
		return fail(err)
	}
	for i := range packets {
		packets[i].Flags = mp4.SyncSampleFlags
	}
	ranges, err := trak.GetRangesForSampleInterval(1, n)
	if err != nil {
		return fail(err)
	}
	parts := make([]io.Reader, len(ranges))
	for i, r := range ranges {
		parts[i] = io.NewSectionReader(f, int64(r.Offset), int64(r.Size))
	}
	entry := trak.Mdia.Minf.Stbl.Stsd.Children[0]
	return packets, entry, struct {
		io.Reader
		io.Closer
	}{bufio.NewReaderSize(io.MultiReader(parts...), 1<<20), f}, nil
}

// setRates fills the bit rates of HLS from the segments: RFC 8216 4.3.4.2. A rest shorter than half the target
// duration does not count for the peak, as that section says.
func setRates(r *media.Rendition) {
	bps := func(size, ticks int64) int {
		return int(math.Ceil(float64(size*8) * float64(r.Timescale) / float64(max(ticks, 1))))
	}
	r.AverageBps = bps(r.Size, r.Gapless.Samples)
	for _, s := range r.Segments {
		if len(r.Segments) == 1 || s.Duration*2 >= int64(segmentSeconds*r.Timescale) {
			r.PeakBps = max(r.PeakBps, bps(s.Size, s.Duration))
		}
	}
	r.PeakBps = max(r.PeakBps, r.AverageBps)
	if r.Lossless {
		r.BitrateBps = r.AverageBps
	}
}
