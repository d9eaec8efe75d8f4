// Package sample makes catalogues of any size up, for benchmarks and trials: the same seed gives the same lines. Names are
// of many languages and scripts, with accents and emoji; popularity and the size of a discography are skewed as those of
// real catalogues are (Zipf).
package sample

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"strings"

	"segue/controlplane/api"

	"github.com/oklog/ulid/v2"
)

// TracksPerArtist is how many tracks there are to one artist, about.
const TracksPerArtist = 10

// Lines gives an import of so many tracks: for each artist the artist, then the albums with their tracks. Guests are
// among the artists before.
func Lines(seed uint64, tracks int) iter.Seq[api.ImportLine] {
	return func(yield func(api.ImportLine) bool) {
		g := &generator{rng: rand.New(rand.NewPCG(seed, 1))}
		for made, artist := 0, 0; made < tracks; artist++ {
			who := api.ImportLine{Type: "artist", ID: g.id(), Name: g.person(), Popularity: g.popularity()}
			g.artists = append(g.artists, who.ID)
			if !yield(who) {
				return
			}
			// 1, 2, 3, … albums of about seven tracks; some artists have dozens, most have one: 1.36 in the mean.
			for range 1 + min(60, int(0.18/math.Pow(g.rng.Float64()+1e-4, 0.8))) {
				if made == tracks {
					return
				}
				album := g.album(who.ID)
				if !yield(album) {
					return
				}
				n := map[string]int{"single": 1 + g.rng.IntN(2), "ep": 3 + g.rng.IntN(3)}[album.AlbumType]
				if n == 0 {
					n = 6 + g.rng.IntN(8)
				}
				genre := pick(g.rng, genres)
				for i := range min(n, tracks-made) {
					made++
					if !yield(g.track(album, genre, i)) {
						return
					}
				}
			}
		}
	}
}

type generator struct {
	rng     *rand.Rand
	artists []string // ids so far
	ids     uint64
}

// id is a ULID that grows, as those of a platform in use do.
func (g *generator) id() string {
	g.ids++
	var u ulid.ULID
	_ = u.SetTime(1_500_000_000_000 + g.ids) // it fits in 48 bits
	binary.BigEndian.PutUint64(u[6:], g.rng.Uint64())
	binary.BigEndian.PutUint16(u[14:], uint16(g.rng.Uint32()))
	return u.String()
}

// popularity is Pareto: a few hear of nearly everybody, nearly nobody hears of most.
func (g *generator) popularity() float64 {
	return math.Round(100*(math.Pow(g.rng.Float64()+1e-9, -0.9)-1)) / 100
}

func (g *generator) album(artist string) api.ImportLine {
	a := api.ImportLine{Type: "album", ID: g.id(), Title: g.title(), Artists: []api.ArtistName{{ID: artist}}, AlbumType: "album", Popularity: g.popularity()}
	switch n := g.rng.IntN(20); {
	case n < 4:
		a.AlbumType = "single"
	case n < 6:
		a.AlbumType = "ep"
	case n < 7:
		a.AlbumType = "compilation"
	}
	year := 2026 - int(70*math.Pow(g.rng.Float64(), 2))
	switch g.rng.IntN(10) {
	case 0:
		a.Date = fmt.Sprintf("%04d", year)
	case 1:
		a.Date = fmt.Sprintf("%04d-%02d", year, 1+g.rng.IntN(12))
	default:
		a.Date = fmt.Sprintf("%04d-%02d-%02d", year, 1+g.rng.IntN(12), 1+g.rng.IntN(28))
	}
	if g.rng.IntN(3) > 0 {
		a.UPC = fmt.Sprintf("%013d", g.rng.Int64N(1e13))
	}
	if g.rng.IntN(25) == 0 {
		a.AvailableIn = []string{"DE", "FR", "JP", "US"}[:1+g.rng.IntN(4)]
	}
	return a
}

func (g *generator) track(album api.ImportLine, genre string, i int) api.ImportLine {
	t := api.ImportLine{Type: "track", ID: g.id(), Title: g.title(), AlbumID: album.ID, Date: album.Date, TrackNumber: i + 1, DiscNumber: 1,
		DurationMS: 60_000 + int64(g.rng.NormFloat64()*45_000+150_000), Popularity: g.popularity(), Genres: []string{genre}}
	t.DurationMS = max(20_000, t.DurationMS)
	if g.rng.IntN(3) > 0 {
		t.ISRC = fmt.Sprintf("QZ%03d%07d", g.rng.IntN(1000), g.rng.IntN(1e7))
	}
	if g.rng.IntN(4) == 0 {
		t.Genres = append(t.Genres, pick(g.rng, genres))
	}
	if album.AlbumType == "compilation" || g.rng.IntN(12) == 0 {
		t.Artists = []api.ArtistName{album.Artists[0]}
		if guest := pick(g.rng, g.artists); guest != album.Artists[0].ID {
			t.Artists = append(t.Artists, api.ArtistName{ID: guest, Role: api.RoleFeatured})
		}
		if writer := pick(g.rng, g.artists); g.rng.IntN(3) == 0 {
			t.Artists = append(t.Artists, api.ArtistName{ID: writer, Role: api.RoleComposer})
		}
	}
	return t
}

func pick[T any](rng *rand.Rand, list []T) T {
	// Squared: what comes first is picked more often.
	return list[int(float64(len(list))*math.Pow(rng.Float64(), 2))]
}

func (g *generator) person() string {
	n := g.rng.IntN(len(people) + 2)
	var name string
	if n < len(people) {
		p := people[n]
		name = pick(g.rng, p.first) + p.between + pick(g.rng, p.last)
	} else {
		name = "The " + pick(g.rng, words[0]) + " " + pick(g.rng, words[0]) + "s"
	}
	// Real catalogues are full of names that nearly are another one.
	switch g.rng.IntN(8) {
	case 0:
		name += " " + pick(g.rng, []string{"Trio", "Quartet", "Orchestra", "Band", "& Friends", "Ensemble", "Collective", "楽団", "Оркестр"})
	case 1:
		name += " " + string(rune('A'+g.rng.IntN(26))) + "."
	}
	return name
}

func (g *generator) title() string {
	list := pick(g.rng, words)
	between := " "
	if list[0][0] >= 0xe3 { // Chinese, Japanese and Korean words need none
		between = ""
	}
	n := 1 + g.rng.IntN(3)
	parts := make([]string, n)
	for i := range parts {
		parts[i] = pick(g.rng, list)
	}
	t := strings.Join(parts, between)
	switch g.rng.IntN(24) {
	case 0:
		t += " (Live)"
	case 1:
		t += " – Remastered"
	case 2:
		t += " " + pick(g.rng, []string{"🌊", "💔", "🔥", "👩‍🎤", "🇯🇵", "✨"})
	case 3:
		t += fmt.Sprintf(" No. %d", 1+g.rng.IntN(40))
	case 4:
		t = strings.ToUpper(t)
	}
	return t
}

var genres = strings.Split("Pop,Rock,Hip-Hop,Electronic,Classical,Jazz,R&B,Metal,Folk,Indie,Country,Blues,Reggae,Soul,Punk,Ambient,House,Techno,Drum & Bass,K-Pop,J-Pop,C-Pop,"+
	"Latin,Salsa,Bossa Nova,Fado,Flamenco,Chanson,Schlager,Afrobeats,Highlife,Gospel,Funk,Disco,Trance,Dub,Trip-Hop,Shoegaze,Post-Rock,Opera,Baroque,Romantic,Soundtrack,Musical,"+
	"Bollywood,Qawwali,Rai,Klezmer,Polka,Tango,Cumbia,Enka,歌謡曲,Шансон,Λαϊκά", ",")

var people = []struct {
	first, last []string
	between     string
}{
	{split("Ada Nina Joni Miles Otis Ella Etta Thelonious Aretha Duke Kate Leonard Nick Patti Tom Fiona Jeff Laura Elliott Sufjan"), split("Marsh Holloway Drake Waits Bush Cohen Nyro Vega Simone Redding Monk Fitzgerald Buckley Stevens Apple Smith Baker Carter Reed Young"), " "},
	{split("Björk Sigrún Þórarinn Åsa Søren Lærke Jón Ólöf Håkan Mø Tove Robyn Guðrún"), split("Guðmundsdóttir Arnalds Jónsdóttir Ødegård Lindström Øst Kjærgaard Þórisson Nyström Åkerfeldt"), " "},
	{split("Édith Françoise Zaz Amélie Noël Hélène Jérôme Chloé Éric Benoît"), split("Lefèvre Béart Châtelain Gainsbourg Müller Dubois Lévêque Çelik Moreau Brassens"), " "},
	{split("João Caetano Mônica Antônio Gal Tomás Inês Zélia Conceição Vinícius"), split("Gonçalves Simão Araújo Veloso Fernández Núñez Ibáñez Muñoz Peña Conceição"), " "},
	{split("Zbigniew Łucja Żaneta Jiří Dvořák Šárka Ödön Győző Ştefan Đorđe"), split("Komeda Wójcik Świątek Dvořáček Čapek Krzesiński Łoś Őri Țepeș Živković"), " "},
	{split("Анна Дмитрий Сергей Ольга Пётр Мария Алла Виктор Юрий Ярослава"), split("Шостакович Прокофьева Цой Пугачёва Чайковский Земфира Рахманинов Крылова"), " "},
	{split("Μαρία Γιώργος Ελένη Νίκος Μάνος Σωτηρία"), split("Θεοδωράκης Χατζιδάκις Αρβανιτάκη Παπαδόπουλος Ξυλούρης"), " "},
	{split("فيروز أم محمد سعاد عبد وردة نجاة"), split("كلثوم الوهاب حافظ حسني الصغيرة خليل"), " "},
	{split("שושנה עידן אריק יהודית נעמי"), split("דמארי רייכל איינשטיין רביץ שמר"), " "},
	{split("लता मोहम्मद आशा किशोर श्रेया"), split("मंगेशकर रफ़ी भोसले कुमार घोषाल"), " "},
	{split("宇多田 椎名 坂本 細野 山下 松任谷 中島 久石 上原 藤井"), split("ヒカル 林檎 龍一 晴臣 達郎 由実 みゆき 譲 ひろみ 風"), ""},
	{split("周 鄧 王 陳 林 張 李 蔡 孫 田"), split("杰倫 麗君 菲 奕迅 俊傑 惠妹 宗盛 依林 燕姿 馥甄"), ""},
	{split("김 이 박 최 정 조 윤 장 임 한"), split("지은 태연 효신 성모 용필 종신 범준 재범 나얼 혜리"), ""},
	{split("Nguyễn Trần Lê Phạm Mỹ Khánh"), split("Sơn Tùng Linh Tâm Hưng Lệ Quyên Đức"), " "},
}

var words = [][]string{
	split("Love Night Blue River Heart Light Fire Rain Dream Road Golden Silver Broken Summer Winter Silent Electric Velvet Paper Glass Ocean Mountain Shadow Mirror Letter Garden City Midnight Morning Hollow Wild Lonesome Sugar Stone Sky"),
	split("Cœur Été Forêt Rêve Déjà Nuit Lumière Âme Fenêtre Élégie Château Étoile Adieu Où Très Bientôt"),
	split("Corazón Niño Mañana Canción Sueño Noche Fuego Año Lluvia Jardín Luz Adiós Última Pájaro"),
	split("Straße Träume Grün Frühling Mädchen Größe Schön Nächte Über Königin Wölfe Sehnsucht Öl Fluß"),
	split("Hjärta Måne Ö Sjön Fjäll Blåbär Älv Høst Nørd Sól Vögguvísa Rós Ljós Draumur"),
	split("Żółw Miłość Źródło Ścieżka Śnieg Gwiazda Łąka Cień Příběh Noc Růže Láska Déšť"),
	split("Ночь Любовь Звезда Дорога Река Зима Сердце Тишина Ветер Огонь Берёза Солнце"),
	split("Νύχτα Θάλασσα Αγάπη Φεγγάρι Όνειρο Ήλιος Δρόμος Καρδιά"),
	split("夜 愛 夢 星 桜 雨 東京 ラブ ソング メモリー さよなら ありがとう 月光 海 花火 未来"),
	split("月亮 愛情 夜曲 青花瓷 小幸運 海闊天空 演員 告白 晴天 光年"),
	split("사랑 밤편지 봄날 별 꽃 바다 눈물 이별 너의 의미"),
	split("حب ليل قمر نجمة بحر قلب شمس وداع"),
}

func split(s string) []string { return strings.Fields(s) }
