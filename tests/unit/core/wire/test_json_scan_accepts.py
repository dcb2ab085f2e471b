"""Texts that are valid JSON, and texts on which parsers may differ: our verdict on each, pinned.

The cases are those of the JSONTestSuite (Nicolas Seriot, "Parsing JSON is a minefield"), y_ and i_, written out by
name.
"""

import json

import pytest

from klais.core.wire.constants import Reason
from klais.core.wire.json_scan import check_payloads

VALID = {
    "array_arraysWithSpaces": b"[[]   ]",
    "array_empty-string": b'[""]',
    "array_empty": b"[]",
    "array_ending_with_newline": b'["a"]\n',
    "array_false": b"[false]",
    "array_heterogeneous": b'[null, 1, "1", {}]',
    "array_null": b"[null]",
    "array_with_1_and_newline": b"[1\n]",
    "array_with_leading_space": b" [1]",
    "array_with_several_null": b"[1,null,null,null,2]",
    "array_with_trailing_space": b"[2] ",
    "number": b"[123e65]",
    "number_0e+1": b"[0e+1]",
    "number_0e1": b"[0e1]",
    "number_after_space": b"[ 4]",
    "number_double_close_to_zero": b"[-0." + b"0" * 77 + b"1]",
    "number_int_with_exp": b"[20e1]",
    "number_minus_zero": b"[-0]",
    "number_negative_int": b"[-123]",
    "number_negative_one": b"[-1]",
    "number_negative_zero": b"[-0]",
    "number_real_capital_e": b"[1E22]",
    "number_real_capital_e_neg_exp": b"[1E-2]",
    "number_real_capital_e_pos_exp": b"[1E+2]",
    "number_real_exponent": b"[123e45]",
    "number_real_fraction_exponent": b"[123.456e78]",
    "number_real_neg_exp": b"[1e-2]",
    "number_real_pos_exponent": b"[1e+2]",
    "number_simple_int": b"[123]",
    "number_simple_real": b"[123.456789]",
    "object": b'{"asd":"sdf", "dfg":"fgh"}',
    "object_basic": b'{"asd":"sdf"}',
    "object_duplicated_key": b'{"a":"b","a":"c"}',
    "object_duplicated_key_and_value": b'{"a":"b","a":"b"}',
    "object_empty": b"{}",
    "object_empty_key": b'{"":0}',
    "object_escaped_null_in_key": rb'{"foo\u0000bar": 42}',
    "object_extreme_numbers": b'{ "min": -1.0e+28, "max": 1.0e+28 }',
    "object_long_strings": b'{"x":[{"id": "' + b"x" * 40 + b'"}], "id": "' + b"x" * 40 + b'"}',
    "object_simple": b'{"a":[]}',
    "object_string_unicode": rb'{"title":"\u041f\u043e\u043b\u0442\u043e\u0440\u0430 \u0417\u0435\u043c" }',
    "object_with_newlines": b'{\n"a": "b"\n}',
    "string_1_2_3_bytes_UTF-8_sequences": rb'["\u0060\u012a\u12AB"]',
    "string_accepted_surrogate_pair": rb'["\uD801\udc37"]',
    "string_accepted_surrogate_pairs": rb'["\ud83d\ude39\ud83d\udc8d"]',
    "string_allowed_escapes": rb'["\"\\\/\b\f\n\r\t"]',
    "string_backslash_and_u_escaped_zero": rb'["\\u0000"]',
    "string_backslash_doublequotes": rb'["\""]',
    "string_comments": b'["a/*b*/c/*d//e"]',
    "string_double_escape_a": rb'["\\a"]',
    "string_double_escape_n": rb'["\\n"]',
    "string_escaped_control_character": rb'["\u0012"]',
    "string_escaped_noncharacter": rb'["\uFFFF"]',
    "string_in_array": b'["asd"]',
    "string_in_array_with_leading_space": b'[ "asd"]',
    "string_last_surrogates_1_and_2": rb'["\uDBFF\uDFFF"]',
    "string_nbsp_uescaped": rb'["new\u00A0line"]',
    "string_nonCharacterInUTF-8_U+10FFFF": b'["\xf4\x8f\xbf\xbf"]',
    "string_nonCharacterInUTF-8_U+FFFF": b'["\xef\xbf\xbf"]',
    "string_null_escape": rb'["\u0000"]',
    "string_one-byte-utf-8": rb'["\u002c"]',
    "string_pi": '["π"]'.encode(),
    "string_reservedCharacterInUTF-8_U+1BFFF": b'["\xf0\x9b\xbf\xbf"]',
    "string_simple_ascii": b'["asd "]',
    "string_space": b'" "',
    "string_surrogates_U+1D11E_MUSICAL_SYMBOL_G_CLEF": rb'["\uD834\uDd1e"]',
    "string_three-byte-utf-8": rb'["\u0821"]',
    "string_two-byte-utf-8": rb'["\u0123"]',
    "string_u+2028_line_sep": b'["\xe2\x80\xa8"]',
    "string_u+2029_par_sep": b'["\xe2\x80\xa9"]',
    "string_uEscape": rb'["\u0061\u30af\u30EA\u30b9"]',
    "string_uescaped_newline": rb'["new\u000Aline"]',
    "string_unescaped_char_delete": b'["\x7f"]',
    "string_unicode": rb'["\uA66D"]',
    "string_unicodeEscapedBackslash": rb'["\u005C"]',
    "string_unicode_2": '["⍂㈴⍂"]'.encode(),
    "string_unicode_U+10FFFE_nonchar": rb'["\uDBFF\uDFFE"]',
    "string_unicode_U+1FFFE_nonchar": rb'["\uD83F\uDFFE"]',
    "string_unicode_U+200B_ZERO_WIDTH_SPACE": rb'["\u200B"]',
    "string_unicode_U+2064_invisible_plus": rb'["\u2064"]',
    "string_unicode_U+FDD0_nonchar": rb'["\uFDD0"]',
    "string_unicode_U+FFFE_nonchar": rb'["\uFFFE"]',
    "string_unicode_escaped_double_quote": rb'["\u0022"]',
    "string_utf8": '["€𝄞"]'.encode(),
    "string_with_del_character": b'["a\x7fa"]',
    "structure_lonely_false": b"false",
    "structure_lonely_int": b"42",
    "structure_lonely_negative_real": b"-0.1",
    "structure_lonely_null": b"null",
    "structure_lonely_string": b'"asd"',
    "structure_lonely_true": b"true",
    "structure_string_empty": b'""',
    "structure_trailing_newline": b'["a"]\n',
    "structure_true_in_array": b"[true]",
    "structure_whitespace_array": b" [] ",
    # beyond the suite
    "all_white_space": b' \t\r\n{ \t\r\n"a" \t\r\n: \t\r\n1 \t\r\n, "b":[ \n] } \t\r\n',
    "depth_32": b"[" * 31 + b"{}" + b"]" * 31,
    "exponent_zeros": b"[1e000000000000000000000000000000]",
    "string_all_hex_digits": rb'["\u0123\u4567\u89ab\ucdef\uABCD\uEF00"]',
    "literals_back_to_back": b"[true,false,null,true]",
}

OK, BAD_UTF8, BAD_JSON, TOO_DEEP = Reason.PASSED, Reason.BAD_UTF8, Reason.BAD_JSON, Reason.TOO_DEEP
CHOICES = {
    "number_double_huge_neg_exp": (OK, b"[123.456e-789]"),
    "number_huge_exp": (OK, b"[0.4e00669" + b"9" * 100 + b"69999999006]"),
    "number_neg_int_huge_exp": (OK, b"[-1e+9999]"),
    "number_pos_double_huge_exp": (OK, b"[1.5e+9999]"),
    "number_real_neg_overflow": (OK, b"[-123123e100000]"),
    "number_real_pos_overflow": (OK, b"[123123e100000]"),
    "number_real_underflow": (OK, b"[123e-10000000]"),
    "number_too_big_neg_int": (OK, b"[-123123123123123123123123123123]"),
    "number_too_big_pos_int": (OK, b"[100000000000000000000]"),
    "number_very_big_negative_int": (OK, b"[-237462374673276894279832749832423479823246327846]"),
    "object_key_lone_2nd_surrogate": (OK, rb'{"\uDFAA":0}'),
    "string_1st_surrogate_but_2nd_missing": (OK, rb'["\uDADA"]'),
    "string_1st_valid_surrogate_2nd_invalid": (OK, rb'["\uD888\u1234"]'),
    "string_incomplete_surrogate_and_escape_valid": (OK, rb'["\uD800\n"]'),
    "string_incomplete_surrogate_pair": (OK, rb'["\uDd1ea"]'),
    "string_incomplete_surrogates_escape_valid": (OK, rb'["\uD800\uD800\n"]'),
    "string_invalid_lonely_surrogate": (OK, rb'["\ud800"]'),
    "string_invalid_surrogate": (OK, rb'["\ud800abc"]'),
    "string_inverted_surrogates_U+1D11E": (OK, rb'["\uDd1e\uD834"]'),
    "string_lone_second_surrogate": (OK, rb'["\uDFAA"]'),
    "string_UTF-16LE_with_BOM": (BAD_UTF8, b'\xff\xfe[\x00"\x00\xe9\x00"\x00]\x00'),
    "string_UTF-8_invalid_sequence": (BAD_UTF8, b'["\xe6\x97\xa5\xd1\x88\xfa"]'),
    "string_UTF8_surrogate_U+D800": (BAD_UTF8, b'["\xed\xa0\x80"]'),
    "string_invalid_utf-8": (BAD_UTF8, b'["\xff"]'),
    "string_iso_latin_1": (BAD_UTF8, b'["\xe9"]'),
    "string_lone_utf8_continuation_byte": (BAD_UTF8, b'["\x81"]'),
    "string_not_in_unicode_range": (BAD_UTF8, b'["\xf4\xbf\xbf\xbf"]'),
    "string_overlong_sequence_2_bytes": (BAD_UTF8, b'["\xc0\xaf"]'),
    "string_overlong_sequence_6_bytes": (BAD_UTF8, b'["\xfc\x83\xbf\xbf\xbf\xbf"]'),
    "string_overlong_sequence_6_bytes_null": (BAD_UTF8, b'["\xfc\x80\x80\x80\x80\x80"]'),
    "string_truncated-utf-8": (BAD_UTF8, b'["\xe0\xff"]'),
    "string_utf16BE_no_BOM": (BAD_UTF8, b'\x00[\x00"\x00\xe9\x00"\x00]'),
    "string_utf16LE_no_BOM": (BAD_UTF8, b'[\x00"\x00\xe9\x00"\x00]\x00'),
    "structure_500_nested_arrays": (TOO_DEEP, b"[" * 500 + b"]" * 500),
    "structure_UTF-8_BOM_empty_object": (BAD_JSON, b"\xef\xbb\xbf{}"),
}


def verdict(payload: bytes) -> Reason:
    return check_payloads([payload])[0][0]


@pytest.mark.parametrize("name", VALID)
def test_valid_text(name: str) -> None:
    text = VALID[name]
    json.loads(text)
    expected = Reason.PASSED if text.strip().startswith(b"{") else Reason.NOT_OBJECT
    assert verdict(text) == expected


@pytest.mark.parametrize("name", [name for name in VALID if name != "depth_32"])
def test_valid_text_as_a_member(name: str) -> None:
    assert verdict(b'{"k":' + VALID[name] + b"}") == Reason.PASSED


@pytest.mark.parametrize("name", CHOICES)
def test_choice(name: str) -> None:
    expected, text = CHOICES[name]
    top_level = Reason.NOT_OBJECT if expected == OK and text[:1] == b"[" else expected
    assert verdict(text) == top_level
    assert verdict(b'{"k":' + text + b"}") == expected
