import type { Reporter } from '../../program/reporter.ts';
import type { Command } from '../../smtp/command.ts';
import type { Decide, Decision } from '../../smtp/decision.ts';
import { type Path, quoteLocal, splitPath, unquoteLocal } from '../../smtp/path.ts';
import { REPLIES } from '../../smtp/reply.ts';
import type { DomainForm } from '../../srs/domain-form.ts';
import { isSrs, type Mailbox, type Srs, type SrsFault } from '../../srs/srs.ts';

/** What is rewritten, and how. */
export interface RewritingOptions {
  readonly srs: Srs;
  /** For a first domain that begins with "*.". */
  readonly domainForm: DomainForm;
  /**
   * Our domains; senders are rewritten to addresses of the first. If that is "*." and a domain, to addresses of names under
   * this domain, in the domain form.
   */
  readonly domains: readonly [string, ...string[]];
  /** Rewrite the senders of other domains. */
  readonly packs: boolean;
  /** Rewrite recipients that are SRS addresses of our domains. */
  readonly unpacks: boolean;
  /** Refuse a sender whose SRS address has a local part of more than `LOCAL_LIMIT` octets. */
  readonly refusesLong: boolean;
  readonly report: Reporter;
  /** The time, in milliseconds since 1970. */
  now(): number;
}

/** RFC 5321 section 4.5.3.1.1. */
const LOCAL_LIMIT = 64;

/** RFC 5321 section 4.5.3.1.2. */
const DOMAIN_LIMIT = 255;

/**
 * The session ends with this many commands refused here. smtpd does not count them, and each could be a guess at a
 * signature.
 */
const ERROR_LIMIT = 100;

/** How many addresses of a session are reported: a client could fill a disk with them. */
const REPORT_LIMIT = 10;

/** How many characters of a mailbox are reported: more than a valid one has (RFC 5321 section 4.5.3.1). */
const NAME_LIMIT = 320;

/**
 * Rewrites senders and recipients by SRS:
 *
 *   MAIL FROM   the null sender and those of our domains, or of none, pass; others become SRS addresses of the first
 *   RCPT TO     an SRS address of our domains, or of none, becomes what it stands for; so does any address of a name
 *               under the domain of the domain form; others pass
 *   STARTTLS    503: what follows could not be read
 *
 * Source routes are dropped (RFC 5321 section 3.6.1). Parameters pass unchanged.
 *
 * @returns what decides on each command of one session.
 */
export function createRewriting(options: RewritingOptions): Decide {
  const { srs, domainForm, domains, report } = options;
  const ours: ReadonlySet<string> = new Set(domains.map(normalizeDomain));
  /** What the domains of the domain form end with. */
  const [suffix] = domains[0].startsWith('*.') ? [normalizeDomain(domains[0].slice(1))] : [];
  let refused = 0;
  let reported = 0;

  function isOurs(domain: string | undefined): boolean {
    return domain === undefined || ours.has(normalizeDomain(domain)) || isDomainForm(domain);
  }

  function isDomainForm(domain: string): boolean {
    return suffix !== undefined && normalizeDomain(domain).endsWith(suffix);
  }

  function decideSender(command: Command, path: Path): Decision {
    const { domain } = path;
    if (domain === undefined || isOurs(domain)) return pass(command, 'FROM', path);
    const sender = { local: unquoteLocal(path.local), domain };
    return suffix === undefined
      ? packLocal(command, path, sender)
      : packDomain(command, path, sender, suffix);
  }

  function packLocal(command: Command, path: Path, sender: Mailbox): Decision {
    const packed = srs.forward(sender, options.now());
    if (packed === undefined) return refuse(REPLIES.badSender);
    const mailbox = format({ local: packed, domain: domains[0] });
    const length = mailbox.lastIndexOf('@');
    if (length > LOCAL_LIMIT) {
      const why = `the local part of its SRS address has ${length} octets, more than ${LOCAL_LIMIT}`;
      if (options.refusesLong) return refuseSender(path, why);
      describe('warning', `sender may be refused elsewhere: ${nameOf(path)}: ${why}`);
    }
    return replace(command, 'FROM', mailbox, path);
  }

  function packDomain(command: Command, path: Path, sender: Mailbox, end: string): Decision {
    const { local } = sender;
    const packed = domainForm.forward({ local, domain: withoutDot(sender.domain) }, options.now());
    if (packed === undefined) return refuse(REPLIES.badSender);
    const domain = `${packed}${end}`;
    if (domain.length > DOMAIN_LIMIT) {
      const why = `the domain of its SRS address has ${domain.length} octets, more than ${DOMAIN_LIMIT}`;
      return refuseSender(path, why);
    }
    return replace(command, 'FROM', format({ local, domain }), path);
  }

  function refuseSender(path: Path, why: string): Decision {
    describe('info', `sender refused: ${nameOf(path)}: ${why}`);
    return refuse(REPLIES.longSender);
  }

  function decideRecipient(command: Command, path: Path): Decision {
    const original = unpack({ local: unquoteLocal(path.local), domain: path.domain });
    if (original === undefined) return pass(command, 'TO', path);
    if (typeof original === 'string') {
      describe('info', `recipient refused: ${nameOf(path)}: ${original} SRS address`);
      return refuse(REPLIES.badSrsRecipient);
    }
    return replace(command, 'TO', format(original), path);
  }

  /** @returns undefined for what is not an SRS address of ours. */
  function unpack(address: Pick<Path, 'local' | 'domain'>): Mailbox | SrsFault | undefined {
    const original = reverse(address);
    if (original === undefined || typeof original === 'string') return original;
    // An SRS1 address can stand for an SRS0 address of ours. Each address is shorter than the one before.
    return unpack(original) ?? (isValid(original) ? original : 'malformed');
  }

  function reverse({ local, domain }: Pick<Path, 'local' | 'domain'>): Mailbox | SrsFault | undefined {
    if (suffix !== undefined && domain !== undefined && isDomainForm(domain)) {
      const theirs = withoutDot(domain).slice(0, -suffix.length);
      return domainForm.reverse({ local, domain: theirs }, options.now());
    }
    return isSrs(local) && isOurs(domain) ? srs.reverse(local, options.now()) : undefined;
  }

  function describe(level: 'warning' | 'info', text: string): void {
    reported += 1;
    if (reported <= REPORT_LIMIT) report[level](text);
    if (reported === REPORT_LIMIT) report[level]('more addresses of this session are not reported');
  }

  function refuse(reply: Buffer): Decision {
    refused += 1;
    if (refused < ERROR_LIMIT) return { type: 'answer', reply };
    report.warning('too many refused commands, closing');
    return { type: 'answer', reply: REPLIES.tooManyErrors, end: true };
  }

  return (command) => {
    const { kind, verb, argument } = command;
    if (kind === 'starttls') return refuse(REPLIES.noSecondTls);
    if (verb === 'MAIL' && options.packs) {
      const path = splitPath(argument, 'FROM', true);
      return typeof path === 'string' ? refuse(REPLIES.badSender) : decideSender(command, path);
    }
    if (verb === 'RCPT' && options.unpacks) {
      const path = splitPath(argument, 'TO', true);
      return typeof path === 'string' || path.mailbox === ''
        ? refuse(REPLIES.badRecipient)
        : decideRecipient(command, path);
    }
    return PASS;
  };
}

const PASS: Decision = { type: 'pass' };

/** The mailbox for a message. */
function nameOf({ mailbox }: Path): string {
  return mailbox.length > NAME_LIMIT ? `${mailbox.slice(0, NAME_LIMIT)}...` : mailbox;
}

/** Domains are equal without regard to case, and to the dot at the end of one. */
function normalizeDomain(domain: string): string {
  return withoutDot(domain.toLowerCase());
}

function withoutDot(domain: string): string {
  return domain.replace(/\.$/, '');
}

function format({ local, domain }: Mailbox): string {
  return `${quoteLocal(local)}@${domain}`;
}

/** A signature may have been guessed, or made by other software with the same key. */
function isValid(address: Mailbox): boolean {
  const path = splitPath(`TO:<${format(address)}>`, 'TO', true);
  return typeof path !== 'string' && path.rest === '' && path.domain === address.domain;
}

function pass(command: Command, word: string, path: Path): Decision {
  return path.isRouted ? replace(command, word, path.mailbox, path) : PASS;
}

function replace({ verb }: Command, word: string, mailbox: string, { rest }: Path): Decision {
  return { type: 'pass', line: `${verb} ${word}:<${mailbox}>${rest}` };
}
