import type { Envelope } from '../../lib/smtp/envelope.ts';
import { firstPiece, type Size } from './pieces.ts';
import type { Random } from './random.ts';
import type { Play } from './run.ts';
import { check } from './violation.ts';

/** A session behind an envelope. Text is latin1. */
export interface EnvelopeDrive {
  readonly envelope: Pick<Envelope, 'wantsClient' | 'fromClient' | 'fromSmtpd'>;
  /** All that the client sends. */
  readonly text: string;
  /** What smtpd sends first; nothing by default. */
  readonly greeting?: string;
  readonly random: Random;
  /** Of the pieces. */
  readonly size: Size;
  readonly record: Parameters<Play>[2];
  /** Takes the steps of the envelope, after each piece. @returns what smtpd sends then. */
  settle(): string;
}

/** Passes what both sides send to an envelope, in pieces whose memory is overwritten, until nothing is left. */
export function driveEnvelope({
  envelope,
  text,
  greeting = '',
  random,
  size,
  record,
  settle,
}: EnvelopeDrive): void {
  let fromClient = text;
  let fromSmtpd = greeting;
  while (fromClient !== '' || fromSmtpd !== '') {
    const isClient = envelope.wantsClient() && fromClient !== '' && (fromSmtpd === '' || random.chance(60));
    check(isClient || fromSmtpd !== '', 'each side waits for the other');
    const piece = firstPiece(isClient ? fromClient : fromSmtpd, size, random);
    const bytes = Buffer.from(piece, 'latin1');
    record?.({ type: isClient ? 'client-sends' : 'smtpd-sends', bytes });
    if (isClient) {
      fromClient = fromClient.slice(piece.length);
      envelope.fromClient(bytes);
    } else {
      fromSmtpd = fromSmtpd.slice(piece.length);
      envelope.fromSmtpd(bytes);
    }
    fromSmtpd += settle();
    bytes.fill(0x58);
  }
}
