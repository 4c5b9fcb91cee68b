package auth

import (
	"container/list"
	"time"
)

// A table remembers at most max values, each for life after it was last put.
// When it is full, the value put longest ago makes room.
type table[K comparable, V any] struct {
	max     int
	life    time.Duration
	entries map[K]*list.Element
	order   *list.List // of row[K, V], put longest ago first
}

type row[K comparable, V any] struct {
	key   K
	value V
	put   time.Time
}

func newTable[K comparable, V any](max int, life time.Duration) *table[K, V] {
	return &table[K, V]{max: max, life: life, entries: make(map[K]*list.Element), order: list.New()}
}

func (t *table[K, V]) get(key K) (value V, ok bool) {
	t.expire()
	e, ok := t.entries[key]
	if !ok {
		return value, false
	}
	return e.Value.(row[K, V]).value, true
}

func (t *table[K, V]) put(key K, value V) {
	t.expire()
	t.remove(key)
	if len(t.entries) >= t.max {
		t.remove(t.order.Front().Value.(row[K, V]).key)
	}
	t.entries[key] = t.order.PushBack(row[K, V]{key, value, time.Now()})
}

func (t *table[K, V]) remove(key K) {
	if e, ok := t.entries[key]; ok {
		t.order.Remove(e)
		delete(t.entries, key)
	}
}

// expire drops what is past its life. Each row is dropped once, so that the
// cost is that of putting it.
func (t *table[K, V]) expire() {
	for e := t.order.Front(); e != nil; e = t.order.Front() {
		r := e.Value.(row[K, V])
		if time.Since(r.put) < t.life {
			return
		}
		t.remove(r.key)
	}
}
