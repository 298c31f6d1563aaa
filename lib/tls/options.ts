import {
  numberOption,
  type OptionGroup,
  type OptionRow,
  type OptionValues,
  refuseBoth,
  stringOption,
  usage,
} from '../program/options.ts';
import type { CredentialOptions } from './credentials.ts';
import type { HandshakeOptions } from './handshake.ts';

/** What the options of TLS are read as. */
export interface TlsSettings {
  readonly handshake: HandshakeOptions;
  readonly credentials: CredentialOptions;
}

/** How long a handshake may take. */
export const HANDSHAKE_LIMITS: readonly OptionRow[] = [
  { name: 'K', value: 'MILLISECONDS', help: 'handshake timeout (30000); 0 for no limit' },
];

/** The timeout in milliseconds; 0 for no limit. @throws Failure (100). */
export function readHandshakeTimeout(values: OptionValues): number {
  return numberOption(values, 'K', { min: 0, max: 2 ** 31 - 1, default: 30_000 });
}

/** Server names, client certificates and ALPN. */
export const HANDSHAKE_RULES: readonly OptionRow[] = [
  {
    name: 'k',
    value: 'LEVEL',
    help:
      'server names (SNI):\n0 KEYFILE and CERTFILE for all (the default),\n' +
      '1 KEYFILE:name and CERTFILE:name too, 2 only those',
  },
  { name: 'Y', help: 'ask for a client certificate, which must be valid if there is one' },
  { name: 'y', help: 'require a valid client certificate' },
  { name: 'alpn', value: 'PROTOCOL', help: 'refuse clients that offer protocols by ALPN, but not this one' },
];

/** The options of TLS, for all programs that do handshakes. */
export const tlsOptions: OptionGroup<TlsSettings> = {
  rows: [...HANDSHAKE_LIMITS, ...HANDSHAKE_RULES],
  read: (values) => {
    const clientCertificate = readClientCertificate(values);
    return {
      handshake: {
        clientCertificate,
        timeout: readHandshakeTimeout(values),
        alpn: readAlpn(values),
      },
      credentials: {
        sniLevel: numberOption(values, 'k', { min: 0, max: 2, default: 0 }),
        asksClients: clientCertificate !== 'none',
      },
    };
  },
};

function readClientCertificate(values: OptionValues): HandshakeOptions['clientCertificate'] {
  refuseBoth(values, 'Y', 'y');
  if (values.y !== undefined) return 'required';
  return values.Y === undefined ? 'none' : 'optional';
}

function readAlpn(values: OptionValues): string | undefined {
  const protocol = stringOption(values, 'alpn');
  if (protocol === '') throw usage('--alpn takes the name of a protocol');
  return protocol;
}

/** What the options of TLS in an SMTP session are read as. */
export interface SmtpTlsSettings {
  /** TLS from the first byte, as on port 465. */
  readonly implicitTls: boolean;
  /** See `readTicketKeys`; undefined for random keys that are not shared. */
  readonly ticketKeysFile: string | undefined;
}

/** The options of TLS for programs that do both TLS and SMTP. */
export const smtpTlsOptions: OptionGroup<SmtpTlsSettings> = {
  rows: [
    { name: 'implicit-tls', help: 'TLS from the first byte, as on port 465' },
    { name: 'ticket-keys', value: 'FILE', help: 'keys of session tickets, to be shared by several servers' },
  ],
  read: (values) => ({
    implicitTls: values['implicit-tls'] === true,
    ticketKeysFile: stringOption(values, 'ticket-keys'),
  }),
};
