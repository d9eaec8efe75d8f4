package api

import "time"

// Plan is a subscription plan.
type Plan string

const (
	PlanFree    Plan = "free"    // renditions up to 160 kbit/s, one stream
	PlanPremium Plan = "premium" // all renditions, offline
	PlanFamily  Plan = "family"  // premium for six members
)

// PlanLimits is what a plan allows one account: GET /v1/plans.
type PlanLimits struct {
	Plan           Plan `json:"plan"`
	MaxBitrateBps  int  `json:"max_bitrate_bps,omitempty"` // 0: no limit
	Lossless       bool `json:"lossless"`
	Streams        int  `json:"streams"`         // at a time
	OfflineDevices int  `json:"offline_devices"` // 0: no offline
	Members        int  `json:"members"`         // accounts that share it, its owner among them
}

// NewUser is the body of POST /v1/users. Password: 8 to 256 bytes.
type NewUser struct {
	Email       string `json:"email"`
	Password    string `json:"password"`
	DisplayName string `json:"display_name,omitempty"` // default: the part of Email before the @
}

// User is one's own account: POST /v1/users (201), GET and PATCH /v1/me.
type User struct {
	ID            string     `json:"id"`
	Email         string     `json:"email"` // empty for some accounts that sign in elsewhere (OIDC)
	DisplayName   string     `json:"display_name"`
	Country       string     `json:"country,omitempty"` // home, ISO 3166-1 alpha-2
	Discoverable  bool       `json:"discoverable"`      // others find the name and public playlists
	Plan          Plan       `json:"plan"`              // now: one's own, or that of one's family
	PlanExpiresAt *time.Time `json:"plan_expires_at,omitempty"`
	CreatedAt     time.Time  `json:"created_at"`
}

// UserChange is the body of PATCH /v1/me; what is left out stays.
type UserChange struct {
	DisplayName  *string `json:"display_name,omitempty"` // 1 to 80 characters
	Discoverable *bool   `json:"discoverable,omitempty"`
	Country      *string `json:"country,omitempty"` // ISO 3166-1 alpha-2; empty: none
}

// Profile is what others see of a discoverable account: GET /v1/users/{id}.
type Profile struct {
	ID          string `json:"id"`
	DisplayName string `json:"display_name"`
}

// NewPassword is the body of PUT /v1/me/password. An account that has no password yet (OIDC) leaves OldPassword empty
// and must have signed in within the last ten minutes.
type NewPassword struct {
	OldPassword string `json:"old_password,omitempty"`
	NewPassword string `json:"new_password"`
}

// Goodbye is the body of DELETE /v1/me. For an account with no password see NewPassword.
type Goodbye struct {
	Password string `json:"password,omitempty"`
}

// Export answers GET /v1/me/export: everything that is kept of the account.
type Export struct {
	ExportedAt time.Time      `json:"exported_at"`
	Account    User           `json:"account"`
	Devices    []OwnDevice    `json:"devices"`
	Sessions   []OwnSession   `json:"sessions"`
	Identities []OIDCIdentity `json:"identities"`
	Family     *Family        `json:"family,omitempty"`
	Parts      map[string]any `json:"parts"` // by the part of the platform that keeps it: playlists, library, …
}

// NewSession is the body of POST /v1/sessions.
type NewSession struct {
	Email    string `json:"email"`
	Password string `json:"password"`
	Device   Device `json:"device" required:"false"`
}

// Device is where a session runs. ID names a device of an earlier sign-in to this account, which goes on: it keeps its
// name, and the sessions that were on it end. An unknown or foreign ID makes a new device.
type Device struct {
	ID   string `json:"id,omitempty"`
	Type string `json:"type,omitempty"` // web, phone, desktop, tv, speaker, cli, other; default other
	Name string `json:"name,omitempty"` // at most 100 characters
}

// OwnDevice is one of one's own devices: GET /v1/me/devices.
type OwnDevice struct {
	ID           string    `json:"id"`
	Type         string    `json:"type"`
	Name         string    `json:"name"`
	CreatedAt    time.Time `json:"created_at"`
	LastActiveAt time.Time `json:"last_active_at"` // to about a quarter of an hour
	SignedIn     bool      `json:"signed_in"`
	Current      bool      `json:"current"` // the one that asks
}

// DeviceChange is the body of PATCH /v1/me/devices/{id}.
type DeviceChange struct {
	Name string `json:"name"`
}

// OwnSession is a session in an Export.
type OwnSession struct {
	ID        string    `json:"id"`
	DeviceID  string    `json:"device_id"`
	CreatedAt time.Time `json:"created_at"`
	SeenAt    time.Time `json:"seen_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Session is the answer to POST /v1/sessions and /v1/sessions/refresh. AccessToken is a JWT signed by EdDSA
// (keys at /.well-known/jwks.json) and goes into Authorization: Bearer. RefreshToken works once.
// DeviceID is to be kept and named at the next sign-in on the same device.
type Session struct {
	AccessToken      string `json:"access_token"`
	TokenType        string `json:"token_type"` // Bearer
	ExpiresInSeconds int    `json:"expires_in"`
	RefreshToken     string `json:"refresh_token"`
	DeviceID         string `json:"device_id"`
	User             User   `json:"user"`
}

// Refresh is the body of POST /v1/sessions/refresh.
type Refresh struct {
	RefreshToken string `json:"refresh_token"`
}

// OIDCInfo answers GET /v1/sessions/oidc: whether to offer it, and as what.
type OIDCInfo struct {
	Enabled bool   `json:"enabled"`
	Issuer  string `json:"issuer,omitempty"`
}

// OIDCSession is the body of POST /v1/sessions/oidc. Code is what came back to the player in the fragment #oidc=,
// Verifier the secret whose SHA-256 was the challenge of GET /v1/sessions/oidc/start.
type OIDCSession struct {
	Code     string `json:"code"`
	Verifier string `json:"verifier"`
	Device   Device `json:"device" required:"false"`
}

// OIDCLink is the body of POST /v1/me/identities: see OIDCSession.
type OIDCLink struct {
	Code     string `json:"code"`
	Verifier string `json:"verifier"`
}

// OIDCIdentity is an account elsewhere that signs in to this one.
type OIDCIdentity struct {
	Issuer    string    `json:"issuer"`
	Subject   string    `json:"subject"`
	CreatedAt time.Time `json:"created_at"`
}

// Family answers GET /v1/me/family. Its members share the owner's plan for as long as that is the family plan.
type Family struct {
	Active     bool           `json:"active"` // the owner has the family plan now
	MaxMembers int            `json:"max_members"`
	Members    []FamilyMember `json:"members"` // the owner first
}

// FamilyMember is one of at most six.
type FamilyMember struct {
	ID          string     `json:"id"`
	DisplayName string     `json:"display_name"`
	Owner       bool       `json:"owner"`
	JoinedAt    *time.Time `json:"joined_at,omitempty"`
}

// FamilyInvite answers POST /v1/me/family/invites. The code lets people in until it expires, the family is full, the
// next one is made, or a member is removed.
type FamilyInvite struct {
	Code      string    `json:"code"`
	URL       string    `json:"url"` // of the player, relative to the control plane
	ExpiresAt time.Time `json:"expires_at"`
}

// JoinFamily is the body of POST /v1/me/family.
type JoinFamily struct {
	Code string `json:"code"`
}

// AdminUser is an account as operators see it: GET /v1/admin/users, in the order of addresses.
type AdminUser struct {
	ID            string     `json:"id"`
	Email         string     `json:"email"`
	DisplayName   string     `json:"display_name"`
	Country       string     `json:"country,omitempty"`
	Discoverable  bool       `json:"discoverable"`
	Plan          Plan       `json:"plan"`                      // in force now
	OwnPlan       Plan       `json:"own_plan"`                  // of the account itself, without its family's
	PlanExpiresAt *time.Time `json:"plan_expires_at,omitempty"` // of OwnPlan
	FamilyOwnerID string     `json:"family_owner_id,omitempty"`
	SuspendedAt   *time.Time `json:"suspended_at,omitempty"`
	CreatedAt     time.Time  `json:"created_at"`
	SignedInAt    *time.Time `json:"signed_in_at,omitempty"`
}

// AdminUserChange is the body of PATCH /v1/admin/users/{id}; what is left out stays. A plan with no PlanExpiresAt does
// not end.
type AdminUserChange struct {
	Plan          *Plan      `json:"plan,omitempty" enum:"free,premium,family"`
	PlanExpiresAt *time.Time `json:"plan_expires_at,omitempty"`
	Suspended     *bool      `json:"suspended,omitempty"`
}

// NewAdminToken is the body of POST /v1/admin/tokens.
type NewAdminToken struct {
	Name      string     `json:"name"`
	Scopes    []string   `json:"scopes"`               // admin (includes all), catalog, fleet, ingest, stats, users
	ExpiresAt *time.Time `json:"expires_at,omitempty"` // default: never
}

// AdminToken is one of GET /v1/admin/tokens. Token is the secret, in the answer to POST only.
type AdminToken struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Scopes    []string   `json:"scopes"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	Token     string     `json:"token,omitempty"`
}

// SigningKey is one of GET /v1/admin/keys/{purpose}: access (of the API) or tokens (of media). The newest that has
// started signs; all that are listed verify.
type SigningKey struct {
	ID        string    `json:"id"`
	Purpose   string    `json:"purpose"`
	CreatedAt time.Time `json:"created_at"`
	StartsAt  time.Time `json:"starts_at"`
	Signs     bool      `json:"signs"`
}
