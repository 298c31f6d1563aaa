/**
 * What the opening with a remote server should do, implemented a second time in another way: see model.ts. It shares no
 * code with lib/smtp.
 */

/** One opening from its beginning to its end. */
export interface RemoteOpeningCase {
  readonly verb: 'EHLO' | 'LHLO';
  readonly name: string;
  readonly starttls: 'never' | 'if-offered' | 'required';
  readonly credentials: { readonly user: string; readonly password: string } | undefined;
  /** TLS starts before anything is sent. */
  readonly isImplicit: boolean;
  readonly isVerified: boolean;
  /** All that the server sends before TLS, and in it. Then it ends the connection. */
  readonly cleartext: string;
  readonly inTls: string;
}

/** What should happen. */
export interface RemoteOpeningModel {
  /** `>` and each line that is sent; `(TLS)`; `=` and the outcome, with its reply as `replyText` gives it, or the reason. */
  readonly steps: string;
  /** Where in the last of the two texts the last reply ends. */
  readonly readTo: number;
}

/** The longest line and the longest reply, with their line endings. */
const LINE_LIMIT = 12288;
const REPLY_LIMIT = 65536;

/** An outcome, thrown. */
class End extends Error {}

/** A reply as one text: the code, and the text of each line. */
export function replyText(code: number, texts: readonly string[]): string {
  return [String(code), ...texts].join('|');
}

/** Computes what should happen. HMAC-MD5 is `hmac:` and the challenge in hexadecimal digits. */
export function modelRemoteOpening(one: RemoteOpeningCase): RemoteOpeningModel {
  let text = one.isImplicit ? one.inTls : one.cleartext;
  let at = 0;
  let isTls = one.isImplicit;
  let steps = '';

  function reply(): [code: number, ...texts: string[]] {
    const start = at;
    const lines: string[] = [];
    for (;;) {
      const next = text.indexOf('\n', at) + 1;
      if ((next === 0 ? text.length : next) - start > REPLY_LIMIT)
        throw new End('broken SMTP reply too long');
      if (next === 0) throw new End('broken undefined');
      const line = text.slice(at, next - 1).replace(/\r$/, '');
      const isSound = /^[2-5]\d\d(?![^ -])/.test(line) && !/[\r\0]/.test(line) && next - at <= LINE_LIMIT;
      const isSame = lines[0] === undefined || line.startsWith(lines[0].slice(0, 3));
      if (!isSound || !isSame) throw new End('broken invalid SMTP reply');
      lines.push(line);
      at = next;
      if (line[3] !== '-') return [Number(line.slice(0, 3)), ...lines.map((each) => each.slice(4))];
    }
  }

  function ask(line: string): [code: number, ...texts: string[]] {
    steps += `>${line}\r\n`;
    return reply();
  }

  function accepted(found: [code: number, ...texts: string[]], otherwise: string): string[] {
    const [code, ...texts] = found;
    if (code >= 300) throw new End(`${otherwise} ${replyText(code, texts)}`);
    return texts;
  }

  function introduce(): string[] {
    const found = ask(`${one.verb} ${one.name}`);
    const mayUseHelo = one.verb === 'EHLO' && (isTls || one.starttls !== 'required');
    return accepted(found[0] >= 500 && mayUseHelo ? ask(`HELO ${one.name}`) : found, 'refused');
  }

  function startTls(hello: string[]): void {
    const isOffered = hello
      .slice(1)
      .some((each) => each.trim().split(/[\s=]/)[0]?.toLowerCase() === 'starttls');
    if (!isOffered && one.starttls === 'required') throw new End('no-tls not offered');
    if (!isOffered) return;
    const [code, ...texts] = ask('STARTTLS');
    if (code >= 300) {
      if (one.starttls === 'required' || code === 421) throw new End(`no-tls ${replyText(code, texts)}`);
      return;
    }
    if (text.length > at) throw new End('broken it sent cleartext data behind its reply to STARTTLS');
    steps += '(TLS)';
    isTls = true;
    text = one.inTls;
    at = 0;
  }

  function authenticate(hello: string[], { user, password }: { user: string; password: string }): void {
    const offers = hello.slice(1).map((each) => each.trimStart().toUpperCase());
    const names = offers
      .filter((each) => /^AUTH[ =]/.test(each))
      .flatMap((each) => each.slice(5).split(/\s+/));
    const base64 = (plain: string): string => Buffer.from(plain).toString('base64');
    const mechanisms: readonly [string, ...((challenge: string) => string)[]][] = [
      [`PLAIN ${base64(`\0${user}\0${password}`)}`],
      ['LOGIN', () => base64(user), () => base64(password)],
      ['CRAM-MD5', (challenge) => base64(`${user} hmac:${Buffer.from(challenge, 'base64').toString('hex')}`)],
    ];
    const mechanism = mechanisms.find(([first]) => names.includes(first.split(' ')[0] ?? ''));
    if (mechanism === undefined) throw new End('no-auth');
    const [first, ...responses] = mechanism;
    let found = ask(`AUTH ${first}`);
    for (const respond of responses) if (found[0] === 334) found = ask(respond(found[1] ?? ''));
    // Of its text, what the credentials are is left out.
    if (found[0] >= 300) throw new End(`auth-refused ${found[0]}`);
  }

  function play(): string {
    accepted(reply(), 'refused');
    let hello = introduce();
    if (!isTls && one.starttls !== 'never') {
      startTls(hello);
      if (isTls) hello = introduce();
    }
    const isAuthenticated = isTls && one.isVerified && one.credentials !== undefined;
    if (isAuthenticated && one.credentials !== undefined) authenticate(hello, one.credentials);
    return `ready ${isAuthenticated} ${hello.join('|')}`;
  }

  try {
    const outcome = play();
    steps += `=${outcome}`;
  } catch (error) {
    if (!(error instanceof End)) throw error;
    steps += `=${error.message}`;
  }
  return { steps, readTo: at };
}
