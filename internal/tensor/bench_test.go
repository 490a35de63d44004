package tensor

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"
)

// floats are n random float32 as a model's callers have them.
func floats(n int) []float32 {
	r := rand.New(rand.NewPCG(1, 2))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return v
}

func decodeLoop(b *testing.B, s *Signature, contentType, target string, body []byte) {
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		row, err := s.DecodeRequest(contentType, target, body)
		if err != nil {
			b.Fatal(err)
		}
		row.Release()
	}
}

func BenchmarkDecodeScalar(b *testing.B) {
	body := []byte(`{"x": 41}`)
	b.Run("tensor", func(b *testing.B) { decodeLoop(b, signature(b, Input{Name: "x"}), "application/json", "/", body) })
	b.Run("query string", func(b *testing.B) { decodeLoop(b, signature(b, Input{Name: "x"}), "", "/add?x=41", nil) })
	b.Run("encoding-json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var v struct{ X float64 }
			if err := json.Unmarshal(body, &v); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkDecodeList decodes 1,000 numbers of several kinds.
func BenchmarkDecodeList(b *testing.B) {
	float32s := floats(1000)
	float64s, ints := make([]float64, len(float32s)), make([]int64, len(float32s))
	pixels, rounded := make([]int64, len(float32s)), make([]float64, len(float32s))
	for i, f := range float32s {
		float64s[i] = float64(f) * math.Pi // 16 or 17 digits
		ints[i] = int64(f * 1e6)
		pixels[i] = ints[i] & 255
		rounded[i] = math.Round(float64(f)*1000) / 1000
	}
	for _, list := range []struct {
		name   string
		dtype  Dtype
		values any
		into   func() any
	}{
		{"float32", Float32, float32s, func() any { return new([]float32) }},
		{"float64", Float64, float64s, func() any { return new([]float64) }},
		{"rounded", Float64, rounded, func() any { return new([]float64) }},
		{"undeclared", 0, float64s, func() any { return new([]float64) }},
		{"int64", Int64, ints, func() any { return new([]int64) }},
		{"uint8", Uint8, pixels, func() any { return new([]int64) }},
	} {
		body, err := json.Marshal(list.values)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(list.name+"/tensor", func(b *testing.B) {
			decodeLoop(b, signature(b, Input{Name: "x", Dtype: list.dtype}), "", "/", body)
		})
		spaced := bytes.ReplaceAll(body, []byte(","), []byte(", ")) // as Python writes it
		b.Run(list.name+"/tensor, spaced", func(b *testing.B) {
			decodeLoop(b, signature(b, Input{Name: "x", Dtype: list.dtype}), "", "/", spaced)
		})
		b.Run(list.name+"/encoding-json", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if err := json.Unmarshal(body, list.into()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBinary brings 1 MB from a body into a block, next to copying it once.
func BenchmarkBinary(b *testing.B) {
	const elements = 1 << 18
	data, err := binary.Append(nil, binary.LittleEndian, floats(elements))
	if err != nil {
		b.Fatal(err)
	}
	block := make([]byte, len(data))
	s := signature(b, Input{Name: "x"})
	through := func(contentType string, body []byte) func(*testing.B) {
		return func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			var c Collation
			for b.Loop() {
				row, err := s.DecodeRequest(contentType, "/", body)
				if err != nil {
					b.Fatal(err)
				}
				c.Reset()
				c.Add(row)
				if n, err := c.Measure(); err != nil || n != len(block) {
					b.Fatal(n, err)
				}
				c.Fill(block)
				row.Release()
			}
		}
	}
	b.Run("copy", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			copy(block, data)
		}
	})
	b.Run("npy", through(NPY, append(appendNPYHeader(nil, Float32, []int{elements}), data...)))
	text := []byte(base64.StdEncoding.EncodeToString(data))
	b.Run("base64", through("", bytes.Join([][]byte{[]byte(`{"x":{"dtype":"float32","b64":"`), text, []byte(`"}}`)}, nil)))
	b.Run("base64-alone", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := base64.StdEncoding.Decode(block, text[:len(text)-4]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCollate lays out batches of 64.
func BenchmarkCollate(b *testing.B) {
	for _, batch := range []struct{ name, body string }{{"scalars", `41`}, {"vectors", `[1,2,3,4,5,6,7,8]`}} {
		b.Run(batch.name, func(b *testing.B) {
			s := signature(b, Input{Name: "x"})
			var c Collation
			for range 64 {
				row, err := s.DecodeRequest("", "/", []byte(batch.body))
				if err != nil {
					b.Fatal(err)
				}
				c.Add(row)
			}
			var layout, block []byte
			b.ReportAllocs()
			for b.Loop() {
				n, err := c.Measure()
				if err != nil {
					b.Fatal(err)
				}
				layout = c.AppendLayout(layout[:0])
				block = append(block[:0], make([]byte, n)...)
				c.Fill(block)
			}
		})
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	for _, answer := range []struct {
		name   string
		layout string
		values any
	}{
		{"scalar", `[[null,"<i8",[1]]]`, []int64{42}},
		{"float32 list", `[[null,"<f4",[1,1000]]]`, floats(1000)},
	} {
		data, err := binary.Append(nil, binary.LittleEndian, answer.values)
		if err != nil {
			b.Fatal(err)
		}
		var reader AnswerReader
		a, err := reader.Read([]byte(answer.layout), data)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(answer.name+"/tensor", func(b *testing.B) {
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				if dst, err = a.Item(0).AppendJSON(dst[:0]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(answer.name+"/encoding-json", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := json.Marshal(answer.values); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
