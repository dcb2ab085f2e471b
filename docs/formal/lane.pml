/*
 * The protocol of a lane, for the model checker Spin. README.md says what it leaves out and how to run it.
 *
 * SESSIONS workers own the lane one after the other or at the same time: a session that another one has fenced goes on
 * until a broker refuses it (a zombie). ENDS times a session ends between any two actions, and the next one recovers.
 * Brokers lose records at the end of topics that they had acknowledged (power loss), CUTS of them in all.
 *
 * A record of klais_raw is a batch of one frame, and all batches come from one edge, numbered from 1. An append is one
 * step, since brokers order the appends of a partition; recovery reads in one step.
 *
 * Rules of brokers: an append is refused when a newer epoch has written to the partition, and when records of the same
 * session before it are gone, because the sequence number of the idempotent producer is out of order then.
 */

#ifndef FRAMES
#define FRAMES 3
#endif
#ifndef SESSIONS
#define SESSIONS 2
#endif
#ifndef ENDS
#define ENDS 2
#endif
#ifndef CUTS
#define CUTS 0
#endif
#ifndef SIZE
#define SIZE 10         /* records in a topic */
#endif
#define WINDOW 2        /* steps that are decided and not put out */
#define NONE 255

/* kinds of journal records */
#define OWNER    0
#define PASSED   1
#define REPEATED 2      /* the batch with this number was taken before */
#define RESUMED  3

typedef Step {
    byte epoch; byte kind; byte step; byte offset; byte frame;
    byte lost; byte doubled; byte unread; byte floor; byte floor_epoch  /* of a RESUMED step */
}
typedef Record { byte epoch; byte step; byte frame }  /* frame 0: the control record of a fence */

byte raw[SIZE], raw_end;
Step journal[SIZE]; byte journal_end;
Record clean[SIZE]; byte clean_end;

byte changelog_epoch;   /* of the newest owner record in the changelog */
byte row_stamp;         /* newest step that a row there contains */
byte marker_step, marker_next, marker_had, marker_floor, marker_epoch, marker_journal, marker_lost, marker_doubled;
byte landmark[FRAMES + 1];  /* of the marker: the frame taken at a raw offset, 0 = none; one more with each marker */

byte coordinator;       /* newest producer epoch */
byte published, ended, cut;
bool covered[FRAMES + 1];  /* a marker contains that this frame was taken */

proctype Session() {
    byte epoch, step, next, had, lost, doubled;  /* had: a bit for each frame taken, by its number */
    byte taken[FRAMES + 1];      /* landmarks: what this session knows to be taken, by raw offset */
    byte journal_at, clean_at;   /* ends of the topics after this session's newest records */
    byte kinds[WINDOW], frames[WINDOW], offsets[WINDOW], decided, written;  /* steps above `acked` */
    byte acked;
    byte todo_step[SIZE], todo_frame[SIZE], todo, done;  /* what the replay puts out */
    byte floor, floor_epoch;
    byte i, j, found, mark, last, rewind, back, bound, missing, twice, controls, more_lost, more_doubled;
    bool unread, bad, same, seen;

recover:
    skip;
    d_step { coordinator++; epoch = coordinator }
    atomic {
        if
        :: coordinator != epoch -> goto fenced
        :: else ->
            assert(clean_end < SIZE);
            clean[clean_end].epoch = epoch; clean[clean_end].step = 0; clean[clean_end].frame = 0;
            clean_end++; clean_at = clean_end
        fi
    }
    atomic {
        if
        :: journal_end > 0 && journal[journal_end - 1].epoch > epoch -> goto fenced
        :: else ->
            assert(journal_end < SIZE);
            journal[journal_end].epoch = epoch; journal[journal_end].kind = OWNER;
            journal[journal_end].step = 0; journal[journal_end].offset = 0; journal[journal_end].frame = 0;
            journal[journal_end].lost = 0; journal[journal_end].doubled = 0; journal[journal_end].unread = 0;
            journal[journal_end].floor = 0; journal[journal_end].floor_epoch = 0;
            journal_end++; journal_at = journal_end
        fi
    }
    atomic {
        if
        :: changelog_epoch > epoch -> goto fenced
        :: else -> changelog_epoch = epoch
        fi
    }
    d_step {  /* read, judge, replay */
        step = marker_step; next = marker_next; had = marker_had; lost = marker_lost; doubled = marker_doubled;
        floor = marker_floor; floor_epoch = marker_epoch;
#ifndef TWICE  /* what a session that ended before its checkpoint has counted: a defect that KLAIS had */
        i = (marker_journal <= journal_end -> marker_journal : 0);
        do
        :: i < journal_end ->
            if
            :: journal[i].kind == RESUMED && journal[i].step > step && journal[i].floor < floor ->
                floor = journal[i].floor; floor_epoch = journal[i].floor_epoch
            :: else
            fi;
            i++
        :: else -> break
        od;
#endif
        i = 0; do :: i <= FRAMES -> taken[i] = landmark[i]; i++ :: else -> break od;
        more_lost = 0; more_doubled = 0; bad = false; controls = 0;
        /* what is left of the clean topic below the floor: fences may have written behind a cut since then */
#ifdef BLIND  /* to the fences of sessions that ended before they counted the loss: a defect that KLAIS had */
        bound = (clean_end - 1 < floor -> clean_end - 1 : floor);
#else
        bound = (clean_end < floor -> clean_end : floor);
        do :: bound > 0 && clean[bound - 1].epoch > floor_epoch -> bound-- :: else -> break od;
#endif

        /* the newest own mark on the clean topic */
        mark = 0;
        i = (bound < floor -> 0 : (floor > 0 -> floor - 1 : 0));
        do
        :: i < clean_end -> if :: clean[i].frame > 0 -> mark = clean[i].step :: else fi; i++
        :: else -> break
        od;

        /* journal after the marker: the last step, and the next raw offset */
        last = step; j = next;
        i = (marker_journal <= journal_end -> marker_journal : 0);
        do
        :: i < journal_end ->
            if
            :: journal[i].kind != OWNER && journal[i].step > last ->
                last = journal[i].step;
                if :: journal[i].offset + 1 > j -> j = journal[i].offset + 1 :: else fi
            :: else
            fi;
            i++
        :: else -> break
        od;

        /* klais_raw against the landmarks */
        rewind = NONE; back = 0; i = 0; same = true;
        do
        :: i <= FRAMES && same ->
            if
            :: taken[i] > 0 -> same = (i < raw_end && raw[i] == taken[i]); if :: same -> back = i + 1 :: else fi
            :: else
            fi;
            i++
        :: else -> break
        od;
        if :: !same || raw_end < j -> rewind = back; bad = true :: else fi;

        if :: journal_end - 1 < marker_journal -> bad = true :: else fi;
        if
        :: bound < floor ->
            bad = true;
            if :: bound > 0 && clean[bound - 1].epoch < floor_epoch -> controls = floor_epoch - clean[bound - 1].epoch
               :: else fi;
            if :: bound > 0 && floor - bound > controls -> more_lost = floor - bound - controls :: else fi;
            floor = bound; floor_epoch = (bound > 0 -> clean[bound - 1].epoch : 0)
        :: else
        fi;
        found = (row_stamp > mark -> row_stamp : mark);
        if
        :: found > last ->  /* steps are missing */
            bad = true;
            if
            :: mark > 0 ->
                if :: rewind < j -> back = rewind :: else -> back = j fi;
                i = (floor < clean_end -> floor : clean_end);
                do
                :: i < clean_end ->
                    if
                    :: clean[i].frame > 0 && clean[i].step > last ->
                        j = back;
                        do
                        :: j < raw_end -> if :: raw[j] == clean[i].frame -> more_doubled++; j = raw_end :: else -> j++ fi
                        :: else -> break
                        od
                    :: else
                    fi;
                    i++
                :: else -> break
                od
            :: else
            fi
        :: else -> found = last
        fi;
        /* now: found = the last step that anything knows, plan.last_step */

        /* replay */
        todo = 0; done = 0; unread = false; back = NONE; missing = 0;
        i = (marker_journal <= journal_end -> marker_journal : 0);
        do
        :: i < journal_end ->
            if
            :: journal[i].kind != OWNER && journal[i].step > step ->
                if
                :: journal[i].kind != RESUMED && !unread ->
                    if
                    :: journal[i].offset >= raw_end || raw[journal[i].offset] != journal[i].frame ->
                        unread = true; back = journal[i].offset
                    :: else -> if :: journal[i].step != step + 1 -> unread = true :: else fi
                    fi
                :: else
                fi;
                if
                :: journal[i].kind == RESUMED ->
                    lost = lost + journal[i].lost; doubled = doubled + journal[i].doubled;
                    missing = (missing > journal[i].unread -> missing - journal[i].unread : 0);
                    next = journal[i].offset + 1;
                    j = next; do :: j <= FRAMES -> taken[j] = 0; j++ :: else -> break od
                :: else ->
                    next = journal[i].offset + 1;
                    had = had | (1 << journal[i].frame);
                    if
                    :: !unread -> taken[journal[i].offset] = journal[i].frame
                    :: else
                    fi;
                    if
                    :: journal[i].kind == PASSED && journal[i].step > mark ->
                        if
                        :: unread -> missing++
                        :: else ->
                            todo_step[todo] = journal[i].step; todo_frame[todo] = journal[i].frame; todo++
                        fi
                    :: else
                    fi
                fi;
                step = journal[i].step
            :: else
            fi;
            i++
        :: else -> break
        od;
        more_lost = more_lost + missing;
        bad = bad || unread;
        if :: bad && rewind < next -> next = rewind :: else fi;
        if :: bad && back < next -> next = back :: else fi;
        if :: found < step -> found = step :: else fi
    }
    do  /* put out what the owner before has not */
    :: done < todo ->
        atomic {
            if
            :: clean_end != clean_at || clean[clean_at - 1].epoch != epoch -> goto refused
            :: else ->
                assert(clean_end < SIZE);
                clean[clean_end].epoch = epoch; clean[clean_end].step = todo_step[done];
                clean[clean_end].frame = todo_frame[done]; clean_end++; clean_at = clean_end; done++
            fi
        }
    :: ended < ENDS -> ended++; goto recover
    :: done == todo -> break
    od;
    skip;
    d_step {
        i = 0; do :: i < todo -> todo_step[i] = 0; todo_frame[i] = 0; i++ :: else -> break od; todo = 0; done = 0
    }
    if
    :: bad ->
        atomic {
            if
            :: journal_end != journal_at || journal[journal_at - 1].epoch != epoch -> goto refused
            :: else ->
                assert(journal_end < SIZE);
                step = found + 1;
                journal[journal_end].epoch = epoch; journal[journal_end].kind = RESUMED;
                journal[journal_end].step = step; journal[journal_end].offset = next - 1;
                journal[journal_end].frame = 0; journal[journal_end].lost = more_lost;
                journal[journal_end].doubled = more_doubled; journal[journal_end].unread = missing;
                journal[journal_end].floor = floor; journal[journal_end].floor_epoch = floor_epoch;
                journal_end++; journal_at = journal_end;
                lost = lost + more_lost; doubled = doubled + more_doubled;
                j = next; do :: j <= FRAMES -> taken[j] = 0; j++ :: else -> break od
            fi
        }
        acked = step; decided = 0; written = 0;
        goto checkpoint
    :: else
    fi;
    acked = step; decided = 0; written = 0;

live:
    do
    :: atomic {  /* decide */
        next < raw_end && decided < WINDOW ->
#ifdef ORDERED  /* a number below the newest one is that of a repeat: a defect that KLAIS had */
        kinds[decided] = ((had >> raw[next]) == 0 -> PASSED : REPEATED);
#else
        kinds[decided] = ((had & (1 << raw[next])) == 0 -> PASSED : REPEATED);
#endif
        frames[decided] = raw[next]; offsets[decided] = next;
        had = had | (1 << raw[next]);
        taken[next] = raw[next];
        next++; step++; decided++
       }
    :: atomic {  /* journal */
        written < decided ->
        if
        :: journal_end != journal_at || journal[journal_at - 1].epoch != epoch -> goto refused
        :: else ->
            assert(journal_end < SIZE);
            journal[journal_end].epoch = epoch; journal[journal_end].kind = kinds[written];
            journal[journal_end].step = acked + written + 1; journal[journal_end].offset = offsets[written];
            journal[journal_end].frame = frames[written]; journal[journal_end].lost = 0;
            journal[journal_end].doubled = 0; journal[journal_end].unread = 0;
            journal[journal_end].floor = 0; journal[journal_end].floor_epoch = 0;
            journal_end++; journal_at = journal_end; written++
        fi
       }
    :: atomic {  /* put out */
        written > 0 ->
        if
        :: kinds[0] == PASSED ->
            if
            :: clean_end != clean_at || clean[clean_at - 1].epoch != epoch -> goto refused
            :: else ->
                assert(clean_end < SIZE);
                clean[clean_end].epoch = epoch; clean[clean_end].step = acked + 1;
                clean[clean_end].frame = frames[0]; clean_end++; clean_at = clean_end
            fi
        :: else
        fi;
        i = 0;
        do
        :: i + 1 < WINDOW ->
            kinds[i] = kinds[i + 1]; frames[i] = frames[i + 1]; offsets[i] = offsets[i + 1]; i++
        :: else -> break
        od;
        kinds[i] = 0; frames[i] = 0; offsets[i] = 0; i = 0;
        acked++; written--; decided--
       }
    :: decided == 0 && step > marker_step ->
checkpoint:
#ifndef UNSEEN  /* a marker covers only what klais_raw was seen to hold since it was taken: a defect that KLAIS had */
        atomic {
            i = 0; same = true;
            do :: i < next && same -> same = (taken[i] == 0 || taken[i] == raw[i]); i++ :: else -> break od;
            i = 0;
            if :: !same -> goto refused :: else fi
        }
#endif
        atomic {  /* rows first, then the marker */
            if
            :: changelog_epoch != epoch -> goto fenced
            :: else -> if :: step > row_stamp -> row_stamp = step :: else fi
            fi
        }
        if :: ended < ENDS -> ended++; goto recover :: true fi;
        atomic {
            if
            :: changelog_epoch != epoch -> goto fenced
            :: else ->
                marker_step = step; marker_next = next; marker_had = had;
                if :: clean_at > marker_floor || bad -> marker_floor = clean_at; marker_epoch = epoch :: else fi;
                marker_journal = journal_at; marker_lost = lost; marker_doubled = doubled;
                i = 0;
                do
                :: i <= FRAMES ->
                    landmark[i] = ((i + 1 == next || landmark[i] == taken[i]) -> taken[i] : 0);
                    if :: taken[i] > 0 -> covered[taken[i]] = true :: else fi;
                    i++
                :: else -> break
                od;
                i = 0; bad = false
            fi
        }
    :: atomic {  /* the watch: what was taken or acknowledged is gone, or another record lies there */
        i = 0; same = (raw_end >= next && clean_end >= clean_at);
        do :: i < next && same -> same = (taken[i] == 0 || taken[i] == raw[i]); i++ :: else -> break od;
        i = 0;
        if :: !same -> goto refused :: else fi
       }
    :: ended < ENDS -> ended++; goto recover
    :: d_step {  /* idle: do the counters match? */
        epoch == coordinator && published == FRAMES && decided == 0 && next == raw_end && clean_end >= clean_at &&
        changelog_epoch == epoch ->
        i = 0; same = true;
        do :: i < next && same -> same = (taken[i] == 0 || taken[i] == raw[i]); i++ :: else -> break od;
        i = (same -> 1 : FRAMES + 1);  /* else the watch is about to see it */
        missing = 0; twice = 0;
        do
        :: i <= FRAMES ->
            found = 0; seen = covered[i]; j = 0;
            do
            :: j < SIZE ->
                if :: j < clean_end && clean[j].frame == i -> found++ :: else fi;
                if :: j < raw_end && raw[j] == i -> seen = true :: else fi;
                if :: j < journal_end && journal[j].frame == i -> seen = true :: else fi;
                j++
            :: else -> break
            od;
            if
            :: found == 0 && seen -> missing++
            :: found > 1 -> twice = twice + found - 1
            :: else
            fi;
            i++
        :: else -> break
        od;
        assert(!same || missing <= lost);
        assert(!same || twice <= doubled);
#ifdef EXACT
        assert(!same || missing == lost);
        assert(!same || twice == doubled);
#endif
        assert(CUTS > 0 || (lost == 0 && doubled == 0));
        i = 0; j = 0; found = 0; missing = 0; twice = 0; seen = false
       }
    od;

refused:  /* fenced, or a broker has lost what this session wrote */
    if
    :: epoch == coordinator -> goto recover
    :: else
    fi;
fenced:
    skip
}

proctype Edge() {
    do
    :: atomic {
        published < FRAMES ->
        published++;
        assert(raw_end < SIZE);
        raw[raw_end] = published; raw_end++
       }
    :: published == FRAMES -> break
    od
}

proctype Broker() {  /* loses the end of a topic */
    do
#ifndef NO_RAW
    :: atomic { cut < CUTS && raw_end > 0 -> raw_end--; raw[raw_end] = 0; cut++ }
#endif
#ifndef NO_JOURNAL
    :: atomic { cut < CUTS && journal_end > 0 -> journal_end--; cut++ }
#endif
    :: atomic { cut < CUTS && clean_end > 1 -> clean_end--; clean[clean_end].frame = 0; cut++ }
    :: cut == CUTS -> break
    od
}

init {
    atomic {
        byte n = 0;
        run Edge(); run Broker();
        do :: n < SESSIONS -> run Session(); n++ :: else -> break od
    }
}
