package oauth

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"postern/upstream"
)

// A Key signs in the name of an application or a service account.
type Key struct {
	key    *rsa.PrivateKey
	header map[string]string
	pss    bool
	// NotAfter is when its certificate ends; zero without one.
	NotAfter time.Time
}

// assertionTime is how long an assertion is good. Microsoft wants 5 to 10
// minutes at most, and clocks differ.
const assertionTime = 5 * time.Minute

type claims struct {
	Issuer    string `json:"iss"`
	Subject   string `json:"sub"`
	Audience  string `json:"aud"`
	Scope     string `json:"scope,omitempty"`
	ID        string `json:"jti"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf"`
	Expires   int64  `json:"exp"`
}

// assertion signs claims as a JWT (RFC 7519, RFC 7515 section 3.1).
func (k *Key) assertion(c claims) (string, error) {
	now := time.Now()
	c.ID, c.IssuedAt, c.NotBefore, c.Expires = rand.Text(), now.Unix(), now.Unix(), now.Add(assertionTime).Unix()
	header, err := json.Marshal(k.header)
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	signed := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(signed))
	var signature []byte
	if k.pss {
		signature, err = rsa.SignPSS(rand.Reader, k.key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	} else {
		signature, err = rsa.SignPKCS1v15(rand.Reader, k.key, crypto.SHA256, digest[:])
	}
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// ParseCertificate reads a certificate and its key, both PEM, with which an
// application proves itself. The form is Microsoft's, which others take too:
// PS256, and the certificate named by its SHA-256 digest
// (learn.microsoft.com/entra/identity-platform/certificate-credentials).
func ParseCertificate(certificate, key []byte) (*Key, error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	private, ok := pair.PrivateKey.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("the key is not an RSA key")
	}
	print := sha256.Sum256(pair.Leaf.Raw)
	text := base64.RawURLEncoding.EncodeToString(print[:])
	return &Key{key: private, pss: true, NotAfter: pair.Leaf.NotAfter,
		header: map[string]string{"alg": "PS256", "typ": "JWT", "x5t#S256": text}}, nil
}

// A ServiceAccount is what Google's console puts in a file when it makes a key
// for one (cloud.google.com/iam/docs/keys-create-delete).
type ServiceAccount struct {
	Email    string
	ClientID string // to be allowed in the Admin console
	TokenURL string
	Key      *Key
}

// ParseServiceAccount reads such a file. Its errors show nothing of it.
func ParseServiceAccount(text []byte) (*ServiceAccount, error) {
	var file struct {
		Type       string `json:"type"`
		Email      string `json:"client_email"`
		ClientID   string `json:"client_id"`
		KeyID      string `json:"private_key_id"`
		PrivateKey string `json:"private_key"`
		TokenURL   string `json:"token_uri"`
	}
	if json.Unmarshal(text, &file) != nil || file.Type != "service_account" || file.Email == "" {
		return nil, errors.New("not the key of a service account: that is a JSON file as Google's console makes it")
	}
	block, _ := pem.Decode([]byte(file.PrivateKey))
	if block == nil {
		return nil, errors.New("there is no private key in it")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := parsed.(*rsa.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("its private key is not an RSA key in PKCS #8")
	}
	return &ServiceAccount{
		Email:    file.Email,
		ClientID: file.ClientID,
		TokenURL: file.TokenURL,
		Key:      &Key{key: private, header: map[string]string{"alg": "RS256", "typ": "JWT", "kid": file.KeyID}},
	}, nil
}

// String keeps keys out of dumps.
func (k *Key) String() string   { return upstream.Secret{}.String() }
func (k *Key) GoString() string { return k.String() }
