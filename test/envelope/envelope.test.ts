/** The envelope, by transcripts. */

import { replayEnvelope } from '../support/replay-envelope.ts';
import { testTranscripts } from '../support/run-transcripts.ts';

testTranscripts(new URL('./', import.meta.url), replayEnvelope);
