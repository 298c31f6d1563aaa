/** What a Received field contains. Texts of the client are sanitized. */
export interface Received {
  /** The argument of the client's last EHLO, HELO or LHLO; undefined if there was none. */
  readonly helloName: string | undefined;
  /** The host name of the client, from its address; undefined if it is unknown. */
  readonly clientName?: string | undefined;
  /** The IP address of the client; undefined if it is unknown. */
  readonly clientAddress: string | undefined;
  /** The name of this host. */
  readonly by: string;
  readonly protocol: ReceivedProtocol;
  /** Undefined without TLS; both may be unknown. */
  readonly tls: { readonly protocol?: string | undefined; readonly cipher?: string | undefined } | undefined;
  /** An atom (RFC 5322 section 3.2.3), or several with dots between them. */
  readonly id: string;
  /** The only recipient; undefined not to name any. */
  readonly recipient?: string | undefined;
  readonly date: Date;
}

/** What the protocol names of RFC 3848 depend on, besides TLS. */
export interface ReceivedProtocol {
  /** The verb of the hello. */
  readonly hello: 'HELO' | 'EHLO' | 'LHLO';
  /** AUTH was successful. */
  readonly isAuthenticated: boolean;
  /** MAIL had SMTPUTF8 (RFC 6531). */
  readonly isUtf8: boolean;
}

/**
 * Formats a Received field (RFC 5321 section 4.4), with the clause "tls" of RFC 8314 section 4.3 where the name of the
 * cipher is one of IANA's.
 *
 * @returns its lines, without line endings.
 *
 * @example
 * ```ts
 * const lines = formatReceived({
 *   helloName: 'client.example',
 *   clientAddress: '192.0.2.1',
 *   by: 'mx.example',
 *   protocol: { hello: 'EHLO', isAuthenticated: false, isUtf8: false },
 *   tls: { protocol: 'TLSv1.3', cipher: 'TLS_AES_256_GCM_SHA384' },
 *   id: '17-4',
 *   date: new Date(0),
 * });
 * lines[0]; // => 'Received: from client.example'
 * lines[3]; // => '  with ESMTPS (TLSv1.3 TLS_AES_256_GCM_SHA384)'
 * lines[5]; // => '  tls TLS_AES_256_GCM_SHA384;'
 * ```
 */
export function formatReceived(received: Received): readonly string[] {
  const { by, id, tls, recipient, date } = received;
  const clauses = [
    ...formatClient(received),
    `by ${by}`,
    `with ${formatProtocol(received)}`,
    `id ${id}`,
    ...(recipient === undefined ? [] : [`for <${recipient}>`]),
    ...(tls?.cipher?.startsWith('TLS_') === true ? [`tls ${sanitize(tls.cipher)}`] : []),
  ];
  return `Received: ${clauses.join('\n  ')};\n  ${date.toUTCString().replace('GMT', '+0000')}`.split('\n');
}

/** Only the host name and the address of the client are known for certain: they are in parentheses. */
function formatClient({ helloName, clientName, clientAddress }: Received): readonly string[] {
  const address = clientAddress === undefined ? undefined : addressLiteral(sanitize(clientAddress));
  const peer = [clientName === undefined ? undefined : sanitize(clientName), address];
  const known = peer.filter((part) => part !== undefined).join(' ');
  const name = helloName === undefined ? (address ?? 'unknown') : sanitize(helloName);
  return [`from ${name}`, ...(known === '' ? [] : [`(${known})`])];
}

function addressLiteral(address: string): string {
  return address.includes(':') ? `[IPv6:${address}]` : `[${address}]`;
}

/** There is no name for HELO in TLS, or with AUTH (RFC 3848, RFC 6531 section 4.3). */
function formatProtocol({ protocol: { hello, isAuthenticated, isUtf8 }, tls }: Received): string {
  const family = hello === 'LHLO' ? 'LMTP' : 'SMTP';
  const kind = isUtf8 ? `UTF8${family}` : hello === 'EHLO' ? `E${family}` : family;
  const suffix = hello === 'HELO' ? '' : `${tls === undefined ? '' : 'S'}${isAuthenticated ? 'A' : ''}`;
  const parts = [tls?.protocol, tls?.cipher].filter((part) => part !== undefined).map(sanitize);
  return parts.length === 0 ? `${kind}${suffix}` : `${kind}${suffix} (${parts.join(' ')})`;
}

/** The maximum length of a host name, in octets (RFC 5321 section 4.5.3.1.2). */
const NAME_LIMIT = 255;

/**
 * Makes a text safe to be one word of a Received field: at most 255 characters, with a question mark for each
 * that does not occur in host names and addresses; "unknown" if it is empty.
 */
export function sanitize(text: string): string {
  return text.slice(0, NAME_LIMIT).replace(/[^A-Za-z0-9._:[\]-]/g, '?') || 'unknown';
}
