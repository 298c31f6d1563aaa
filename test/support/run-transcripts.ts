/** Tests of a machine of lib/smtp by transcripts, whole and in pieces. */

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { LINE_LIMIT } from '../../lib/smtp/line.ts';
import { type Cut, inputsOf, outcomeOf, type Replay } from './replay.ts';
import { type Entry, formatEntries, parseTranscripts, type Transcript } from './transcript.ts';

/** Packets longer than this, in bytes, are not cut at every byte, which would take minutes. */
const EVERY_BYTE = 1000;

/** If there are more than twice as many packets, those in the middle are not cut one by one. */
const MANY_PACKETS = 20;

/** Makes a test of each scenario in the transcripts of a folder. */
export function testTranscripts(folder: URL, replay: Replay): void {
  const titles = new Set<string>();
  for (const file of readdirSync(folder).filter((name) => name.endsWith('.transcript'))) {
    describe(file, () => {
      for (const transcript of parseTranscripts(readFileSync(new URL(file, folder), 'latin1'))) {
        assert.ok(!titles.has(transcript.title), `two scenarios have the title: ${transcript.title}`);
        titles.add(transcript.title);
        it(transcript.title, transcript.todo === undefined ? {} : { todo: transcript.todo }, () => {
          assert.equal(formatEntries(replay(transcript)), formatEntries(transcript.entries));
          if (transcript.unsplit === undefined) replayInPieces(transcript, replay);
        });
      }
    });
  }
}

/** Cuts every packet at every byte, then all packets in pieces of one byte. */
function replayInPieces(transcript: Transcript, replay: Replay): void {
  const inputs = inputsOf(transcript);
  const whole = outcomeOf(replay(transcript));
  const compare = (how: string, cut: Cut): void =>
    compareWith(whole, transcript, how, outcomeOf(replay(transcript, cut)));
  for (const [number, entry] of inputs.entries()) {
    if (!isPacket(entry) || (number >= MANY_PACKETS && number < inputs.length - MANY_PACKETS)) continue;
    for (const at of cutsOf(entry.bytes)) {
      compare(`packet ${number} cut at byte ${at}`, (packet, which) =>
        which === number ? [packet.subarray(0, at), packet.subarray(at)] : [packet],
      );
    }
  }
  const total = transcript.entries.reduce((sum, e) => sum + ('bytes' in e ? e.bytes.length : 0), 0);
  const size = total > 30_000 ? 1_000 : 1;
  compare(`pieces of ${size}`, (packet) =>
    Array.from({ length: Math.ceil(packet.length / size) }, (_, i) =>
      packet.subarray(i * size, (i + 1) * size),
    ),
  );
}

function isPacket(entry: Entry): entry is Extract<Entry, { readonly bytes: Buffer }> {
  return entry.type === 'client-sends' || entry.type === 'smtpd-sends';
}

/** Every place to cut a packet; for a long one, those near its ends, its first line end and the limit. */
function cutsOf(packet: Buffer): number[] {
  const all = Array.from({ length: packet.length - 1 }, (_, i) => i + 1);
  if (packet.length <= EVERY_BYTE) return all;
  const end = packet.indexOf('\n') + 1;
  const places = [1, end, end + LINE_LIMIT, LINE_LIMIT, 2 * LINE_LIMIT, packet.length - 1];
  return all.filter((at) => places.some((place) => Math.abs(at - place) <= 3));
}

function compareWith(
  whole: ReturnType<typeof outcomeOf>,
  transcript: Transcript,
  how: string,
  pieces: ReturnType<typeof outcomeOf>,
): void {
  const injected = transcript.behindStarttls;
  if (injected === undefined) assert.deepEqual(pieces, whole, how);
  else assert.ok(!pieces.toSmtpd.includes(injected), `${how}: smtpd received bytes sent after STARTTLS`);
}
