package accounts

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"postern/upstream"
)

// The kinds of client passwords.
const (
	Generated = "generated" // by postern; nobody can guess it, so a fast hash guards it
	Chosen    = "chosen"    // by a person; argon2id guards it
)

// alphabet is what generated passwords are made of: what a scanner's little
// keyboard has, and nothing that looks like something else (0 O, 1 l I).
const alphabet = "abcdefghjkmnpqrstuvwxyz23456789"

const (
	// randomLength makes 128 bits of 31 letters, and with what shows whose it is
	// fits into the 31 or 32 characters that some devices have for a password.
	randomLength    = 26
	generatedLength = randomLength + 2
	groupLength     = 4
)

// generate makes a password.
func (k keys) generate() upstream.Secret {
	text := make([]byte, 0, randomLength)
	var random [64]byte
	for len(text) < randomLength {
		rand.Read(random[:])
		for _, b := range random {
			// What is left of a whole number of alphabets would favour its beginning.
			if int(b) < 256/len(alphabet)*len(alphabet) && len(text) < randomLength {
				text = append(text, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return upstream.NewSecret(string(text) + k.hallmark(string(text)))
}

// hallmark is the two letters that a generated password ends with. They show that
// it was made here, whoever's it is or was.
func (k keys) hallmark(text string) string {
	h := hmac.New(sha256.New, k.seed)
	h.Write([]byte("hallmark\x00" + text))
	n := binary.BigEndian.Uint32(h.Sum(nil)) % uint32(len(alphabet)*len(alphabet))
	return string([]byte{alphabet[n/uint32(len(alphabet))], alphabet[n%uint32(len(alphabet))]})
}

// made tells whether a password was generated here: by its form, so that of those
// from elsewhere that look like it one in a thousand is taken for one, too.
func (k keys) made(password string) bool {
	text := typed(password)
	return len(text) == generatedLength && strings.Trim(text, alphabet) == "" &&
		hmac.Equal([]byte(k.hallmark(text[:randomLength])), []byte(text[randomLength:]))
}

// Groups is a generated password as a person copies it: in groups. Spaces and
// hyphens in it do not count, and neither do capitals.
func Groups(password upstream.Secret) string {
	text := password.Reveal()
	var groups []string
	for ; len(text) > groupLength; text = text[groupLength:] {
		groups = append(groups, text[:groupLength])
	}
	return strings.Join(append(groups, text), " ")
}

// typed is a password without what a person may add when typing a generated one.
func typed(password string) string {
	return strings.ToLower(strings.NewReplacer(" ", "", "-", "").Replace(password))
}

// verifier is what the state keeps of a generated password: a MAC under a key
// of the state's own. Nobody can search for 128 bits, however fast it is.
func (k keys) verifier(account, password string) []byte {
	h := hmac.New(sha256.New, k.seed)
	h.Write([]byte("client password\x00" + account + "\x00"))
	h.Write([]byte(password))
	return h.Sum(nil)
}

// keys are derived from the state's seed.
type keys struct{ seed []byte }

// iterations is what RFC 7677 section 4 wants at least. More would protect
// nothing: what it is for cannot be guessed anyway.
const iterations = 4096

// salt is the same for all passwords of an account, since SCRAM sends it before
// it knows which of them the client has, and is there for every name, since a
// stranger must not learn whose there are (RFC 5802 section 5.1 leaves that open).
func (k keys) salt(account string) []byte {
	h := hmac.New(sha256.New, k.seed)
	h.Write([]byte("scram salt\x00" + account))
	return h.Sum(nil)[:16]
}

// scram derives what RFC 5802 section 3 has the server keep. The passwords that
// it is used for are ASCII, or were put down in the form that clients send.
func (k keys) scram(account, password string) (storedKey, serverKey []byte) {
	salted, err := pbkdf2.Key(sha256.New, password, k.salt(account), iterations, sha256.Size)
	if err != nil {
		panic(err) // only for parameters that FIPS 140 forbids, and ours are constant
	}
	clientKey := mac(salted, "Client Key")
	stored := sha256.Sum256(clientKey)
	return stored[:], mac(salted, "Server Key")
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
