package config

// checkPolicies looks at what routes want done to messages: whether it goes
// together, and whether there is what it needs.
func (c *Config) checkPolicies(d *decoder) {
	for i, r := range c.Routes {
		at := item("routes", i)
		r.checkDelete(d, at)
		c.checkProtocol(d, at, r)
		c.checkState(d, at, r)
	}
}

func (r Route) checkDelete(d *decoder, at string) {
	if r.Delete != DeleteArchive && d.has(at+".archive_folder") {
		d.fault(at+".archive_folder", "has no use with delete: %s: it is where delete: archive moves messages", r.Delete)
	}
	kept := map[string]string{
		DeleteFlag:  "flagged messages are kept for ever",
		DeleteNever: "nothing is removed",
	}[r.Delete]
	if kept == "" {
		return
	}
	if r.Grace > 0 {
		d.fault(at+".grace", "has no use with delete: %s: %s", r.Delete, kept)
	}
	if r.ExpungeIfAlone {
		d.fault(at+".expunge_if_alone", "has no use with delete: %s: %s", r.Delete, kept)
	}
	if r.Delete == DeleteNever && r.RequireRetr {
		d.fault(at+".require_retr", "has no use with delete: never: nothing is removed")
	}
}

// checkProtocol reports what the upstream's protocol has no use for.
func (c *Config) checkProtocol(d *decoder, at string, r Route) {
	if c.Upstream(r.Upstream).Protocol != JMAP {
		return
	}
	for _, key := range []string{"expunge_if_alone", "uidl"} {
		if d.has(at + "." + key) {
			d.fault(at+"."+key, "is for an upstream with protocol: imap only")
		}
	}
}

// checkState reports what needs a state that is off, or kept for too short a time.
func (c *Config) checkState(d *decoder, at string, r Route) {
	if !c.State.Off {
		if r.Grace > 0 && r.Grace+day > c.State.RemovalsKept {
			d.fault(at+".grace", "must be a day shorter than state.removals_kept: what the log has forgotten is never purged")
		}
		return
	}
	for _, need := range []struct {
		key string
		set bool
	}{
		{"grace", r.Grace > 0},
		{"require_retr", r.RequireRetr},
		{"churn", d.has(at+".churn") && !r.Churn.Off},
	} {
		if need.set {
			d.fault(at+"."+need.key, "needs the state that state: off does without")
		}
	}
}
