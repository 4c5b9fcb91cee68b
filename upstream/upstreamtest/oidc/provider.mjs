// The authorization server of the tests: oidc-provider, set up by a JSON file.
// Anybody logs in, and is whom they say, as the pages for development have it.
import { readFileSync } from 'node:fs'
import { Provider } from 'oidc-provider'

const settings = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const mail = 'urn:postern:mail'

const provider = new Provider(settings.issuer, {
  clients: settings.clients,
  scopes: ['openid', 'offline_access', 'mail'],
  claims: { openid: ['sub'] },
  pkce: { required: () => true, methods: ['S256'] },
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  cookies: { keys: [settings.key] },
  rotateRefreshToken: settings.rotate,
  issueRefreshToken: (ctx, client, code) => code.scopes.has('offline_access'),
  expiresWithSession: () => false,
  conformIdTokenClaims: false,
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    // Whoever asks for the scope mail gets a JWT that Cyrus can verify by itself;
    // without it, an opaque token that is good at the userinfo endpoint.
    resourceIndicators: {
      enabled: true,
      defaultResource: (ctx) => ((ctx.oidc.params?.scope ?? '').split(' ').includes('mail') ? mail : undefined),
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: 'mail',
        audience: mail,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'HS256', key: Buffer.from(settings.key) } },
      }),
    },
  },
  // Cyrus takes no header and no claim but these; oidc-provider insists on an
  // audience, which is there but not sent.
  formats: {
    customizers: {
      jwt: (ctx, token, jwt) => {
        jwt.header = { typ: 'JWT' }
        const { sub, iat, aud } = jwt.payload
        jwt.payload = Object.defineProperty({ sub, iat }, 'aud', { value: aud, writable: true })
      },
    },
  },
  ttl: {
    AccessToken: settings.accessTokenTTL,
    ClientCredentials: settings.accessTokenTTL,
    AuthorizationCode: 60,
    DeviceCode: 600,
    Grant: 86400,
    Interaction: 600,
    RefreshToken: 86400,
    Session: 86400,
    IdToken: 3600,
  },
})

provider.on('server_error', (ctx, err) => console.error(err))
provider.on('grant.error', (ctx, err) => console.log(`token refused: ${err.error}: ${err.error_detail ?? ''}`))
provider.on('grant.success', (ctx) => console.log(`token granted: ${ctx.oidc.params.grant_type}`))
provider.listen(new URL(settings.issuer).port, '127.0.0.1', () => console.log('ready'))
